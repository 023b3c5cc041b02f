"""Measure how large each dataset's gradient is in the weights that all share.

AdamW divides a step by the size of the summed gradient, so it is not the size of a dataset's gradient that
counts but its share in the sum. "rate" is its norm over the root of the sum of all squared norms: of the
learning rate that a network of this dataset alone has, what is left to it if the gradients of different
datasets are orthogonal. Three of one size have 0.58 each.

Run: python benchmarks/gradient_share.py examples/configs/strong.yaml runs/strong/cdcl-seed0
Writes: its lines, root mean squares over batches, into benchmarks/results/gradient_share.csv, beside those of
    other calls, and gradient_share.json (versions, commits).
"""

from __future__ import annotations

from math import hypot
from pathlib import Path
from typing import Annotated

import torch
import typer
from merge import merge
from torch import nn

import dabnn
from dabnn.batch import Batch
from dabnn.experiments.build import build_dataset, build_train_loader, data_directory
from dabnn.experiments.config import load_config
from dabnn.experiments.losses import build_losses
from dabnn.experiments.results import environment
from dabnn.experiments.saved import load_model
from dabnn.training.batch import LossFunction

RESULTS = Path(__file__).parent / "results"
SEED = 1


def main(
    config: Annotated[Path, typer.Argument(help="YAML file of the training.")],
    network: Annotated[str, typer.Argument(help="Folder of a training, or name of a model.")],
    batches: Annotated[int, typer.Option(help="Batches of each dataset.")] = 24,
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
) -> None:
    experiment = load_config(config)
    root = data_directory(experiment, data)
    datasets = {
        name: build_dataset(experiment, name, train=True, data_dir=root) for name in experiment.datasets
    }
    widths = {name: len(dataset.classes) for name, dataset in datasets.items()}
    torch.manual_seed(SEED)
    model = load_model(network).train()
    losses = build_losses(experiment, widths)
    norms = {}
    for name, dataset in datasets.items():
        drawn = zip(range(batches), build_train_loader(experiment, dataset, SEED), strict=False)
        squares = [squared_norm(model, name, losses[name], batch) for _, batch in drawn]
        norms[name] = experiment.datasets[name].weight * (sum(squares) / len(squares)) ** 0.5
    of = {"recipe": experiment.name, "network": network}
    rows = [
        of | {"dataset": name, "norm": f"{norm:.3f}", "rate": f"{norm / hypot(*norms.values()):.2f}"}
        for name, norm in norms.items()
    ]
    merge(RESULTS / "gradient_share.csv", rows, [*of, "dataset"], [environment()])


def squared_norm(model: nn.Module, name: str, loss: LossFunction, batch: Batch) -> float:
    """Return the squared norm of the gradient of one batch in the shared weights."""
    model.zero_grad()
    with dabnn.use_dataset(model, name):
        loss(model(batch["image"]), batch).backward()
    gradients = [weight.grad for weight in dabnn.shared_parameters(model) if weight.grad is not None]
    return sum(gradient.square().sum().item() for gradient in gradients)


if __name__ == "__main__":
    typer.run(main)
