"""Write one small file or folder of every kind that dabnn writes, to see later that they still load.

Those in ``first`` are of commit a663aa5: ``python tests/helpers/write_formats.py tests/formats/first``. The
data folder that the run's result names was shortened to "." by hand. After a change of a format write another
folder, under a new name; the old ones stay as they are.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dabnn
from dabnn.experiments.config import Config, parse_config
from dabnn.experiments.run import run_method
from dabnn.training import AlternationTrainer

NAMES, CLASSES = ["north", "south"], [3, 5]
IMAGES = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)

RUN = {
    "name": "formats",
    "datasets": {
        "oldtown": {"kind": "toy", "root": "oldtown", "train": "val"},
        "sunvale": {"kind": "toy", "root": "sunvale", "train": "val"},
    },
    "model": {
        "encoder": "tu-test_byobnet",
        "arguments": {"encoder_depth": 3, "psp_out_channels": 8},
        "bn_momentum": 0.1,
    },
    "images": {"crop": [32, 32], "scale": [0.75, 1.0], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "training": {"steps": 2, "batch_size": 2},
}


def run_config() -> Config:
    """The experiment of the stored run."""
    return parse_config(RUN)


def small_model() -> nn.Module:
    """A classifier of timm for two datasets, whose norms have seen some data."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8), num_classes=3)
    model = dabnn.convert_to_dataset_aware(model, dataset_names=NAMES, num_classes=CLASSES)
    for name in NAMES:
        with dabnn.use_dataset(model, name), torch.no_grad():
            model(torch.randn(4, 3, 32, 32))
    return model.eval()


def trainer_of(model: nn.Module, run_dir: Path) -> AlternationTrainer:
    """A trainer with momentum, a schedule and averaged weights."""
    generator = torch.Generator().manual_seed(0)
    loaders = {
        name: [(torch.randn(2, 3, 32, 32, generator=generator), torch.tensor([0, 1])) for _ in range(2)]
        for name in NAMES
    }
    return AlternationTrainer(model, loaders, ema_decay=0.5, run_dir=run_dir, callbacks=[])


def outputs_of(model: nn.Module) -> dict[str, Tensor]:
    """The logits of every dataset for one image."""
    outputs = {}
    for name in NAMES:
        with dabnn.use_dataset(model, name), torch.no_grad():
            outputs[name] = model(IMAGES)
    return outputs


def write(folder: Path) -> None:
    """Write a model, a branch, a checkpoint, a run, and what the model answers."""
    model = small_model()
    dabnn.save_pretrained(model, folder / "model")
    dabnn.save_dataset(model, "south", folder / "branch")
    save_file({**outputs_of(model)}, folder / "outputs.safetensors")
    trainer_of(small_model(), folder / "training").fit(max_steps=2)
    run_method(run_config(), "cdcl", 0, folder / "runs")
    shutil.rmtree(folder / "runs" / "cdcl-seed0" / "tensorboard")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
