"""Figure 3: distributions of weights and batch-norm statistics in separately trained networks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from itertools import combinations, pairwise, product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dabnn import extract_dataset
from dabnn.errors import ConfigError
from dabnn.experiments.comparison import markdown
from dabnn.experiments.config import Config
from dabnn.experiments.report.figures import SVG_STYLE
from dabnn.experiments.results import environment, write_json
from dabnn.experiments.run import Callbacks, run_method, run_with
from dabnn.experiments.saved import load_model
from dabnn.storage.atomic import written_atomically

FIGURE_SEEDS = (0, 1, 2)
DEPTHS = {"low": 0.1, "middle": 0.5, "high": 0.95}
"""Where the sampled layers are, as a share of all layers with a batch norm."""

Networks = Mapping[tuple[str, int], Tensor]
"""Values of one quantity of one layer, by dataset and seed of the network."""
Values = dict[tuple[str, str, str], dict[tuple[str, int], Tensor]]
"""Those by depth, path of the norm, and quantity."""


class Divergence(NamedTuple):
    """How far networks are apart in one quantity of one layer.

    Attributes:
        depth: "low", "middle" or "high".
        layer: Path of the batch norm.
        quantity: "weight" of the convolution, "running_mean" or "running_var" of the batch norm.
        datasets: Mean divergence of networks of two datasets, with the same seed.
        seeds: Mean divergence of networks of one dataset, with two seeds.
    """

    depth: str
    layer: str
    quantity: str
    datasets: float
    seeds: float


def divergence(a: Tensor, b: Tensor) -> float:
    """Return the distance of two distributions: 0 if equal, 1 if a standard deviation apart.

    It is the Wasserstein distance of the two samples, over the standard deviation of both together.

    Args:
        a: Values (N,).
        b: As many values.
    """
    distance = (a.sort().values - b.sort().values).abs().mean()
    return (distance / torch.cat([a, b]).std()).item()


def sampled_layers(model: nn.Module) -> dict[str, tuple[str, nn.Module, nn.Module]]:
    """Return path of the norm, convolution and norm of a low, a middle and a high layer of a plain model."""
    modules = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | _BatchNorm)
    ]
    pairs = [
        (name, conv, norm)
        for (_, conv), (name, norm) in pairwise(modules)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm)
    ]
    return {depth: pairs[round(share * (len(pairs) - 1))] for depth, share in DEPTHS.items()}


def write_figure(
    out: Path,
    name: str,
    config: Config,
    *,
    data_dir: Path | None = None,
    seeds: Iterable[int] | None = None,
    callbacks: Callbacks = tuple,
) -> Path:
    """Train single-dataset networks that are not trained yet; write ``<name>.csv``, ``.md`` and ``.svg``.

    The arguments are those of `dabnn.experiments.paper.reproduce`, but for ``out``, the folder of the scale.

    Raises:
        ConfigError: If there are fewer than two seeds.
    """
    chosen = tuple(seeds or FIGURE_SEEDS)
    runs = out / config.name
    if len(set(chosen)) < 2:
        raise ConfigError(f"{name} compares datasets with seeds: it needs two seeds or more")
    for seed in chosen:
        run_method(config, "single", seed, runs, data_dir=data_dir, callbacks=callbacks)
    values = _read(config, chosen, runs)
    rows = [Divergence(*key, *_divergences(networks)) for key, networks in values.items()]
    _write_csv(out / f"{name}.csv", rows)
    write_json(out / f"{name}.json", {"environments": [environment()], "seeds": chosen})
    _draw(out / f"{name}.svg", values, list(config.datasets), chosen[0])
    file = out / f"{name}.md"
    lines = [[*row[:3], f"{row.datasets:.3f}", f"{row.seeds:.3f}"] for row in rows]
    header = ["depth", "layer", "quantity", "between datasets", "between seeds"]
    file.write_text(f"# Distributions in separately trained networks\n\n{markdown(header, lines)}")
    return file


def _read(config: Config, seeds: Iterable[int], runs: Path) -> Values:
    values: Values = {}
    for seed, dataset in product(seeds, config.datasets):
        model = load_model(run_with(config, "single", seed, dataset, runs).folder)
        layers = sampled_layers(extract_dataset(model, dataset))
        for depth, (path, conv, norm) in layers.items():
            for quantity, tensor in _quantities(conv, norm).items():
                values.setdefault((depth, path, quantity), {})[dataset, seed] = tensor
    return values


def _quantities(conv: nn.Module, norm: nn.Module) -> dict[str, Tensor]:
    return {
        "weight": conv.weight.detach().flatten(),  # type: ignore[operator]
        "running_mean": norm.running_mean.detach(),  # type: ignore[operator]
        "running_var": norm.running_var.detach(),  # type: ignore[operator]
    }


def _divergences(networks: Networks) -> tuple[float, float]:
    """Return the mean divergence between datasets with one seed, and between seeds of one dataset."""
    datasets, seeds = [], []
    for (key, a), (other, b) in combinations(networks.items(), 2):
        if key[1] == other[1]:
            datasets.append(divergence(a, b))
        elif key[0] == other[0]:
            seeds.append(divergence(a, b))
    return fmean(datasets), fmean(seeds)


def _write_csv(file: Path, rows: list[Divergence]) -> None:
    with written_atomically(file) as temporary, temporary.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(Divergence._fields)
        writer.writerows([*row[:3], f"{row.datasets:.4f}", f"{row.seeds:.4f}"] for row in rows)


def _draw(file: Path, values: Values, datasets: list[str], seed: int) -> None:
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(9, 7), layout="constrained")
        grid = figure.subplots(len(DEPTHS), 3).flat
        for axes, ((depth, _, quantity), networks) in zip(grid, values.items(), strict=True):
            low, high = np.quantile(torch.cat(list(networks.values())).numpy(), [0.01, 0.99])
            bins = 60 if quantity == "weight" else 20
            for dataset in datasets:
                sample = networks[dataset, seed].numpy()
                axes.hist(sample, bins, range=(low, high), density=True, histtype="step", label=dataset)
            axes.set(title=f"{depth}: {quantity}", yticks=[])
            axes.spines[["top", "right", "left"]].set_visible(False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(datasets))
        figure.savefig(file, format="svg", metadata={"Date": None})
