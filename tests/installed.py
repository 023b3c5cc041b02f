"""Uses dabnn as a user who installed it does; run by `make wheel` with the wheel in a fresh environment."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

import dabnn

SIZE = (64, 128)


def check(name: str, model: torch.nn.Module, classes: dict[str, int]) -> None:
    """Ask a model for the logits of each dataset."""
    for dataset, count in classes.items():
        with dabnn.use_dataset(model.eval(), dataset), torch.inference_mode():
            logits = model(torch.zeros(1, 3, *SIZE))
        if logits.shape != (1, count, *SIZE) or not logits.isfinite().all():
            sys.exit(f"{name} gives logits of shape {tuple(logits.shape)} for {dataset}, or not finite ones")
    print(f"{name}: {classes}")


def predict(name: str) -> None:
    """Segment an image file from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        street = Path(folder) / "street.png"
        Image.effect_mandelbrot((256, 128), (-2, -1, 1, 1), 50).convert("RGB").save(street)
        command = Path(sys.executable).parent / "dabnn"
        subprocess.run([command, "predict", street, "--model", name, "--out", folder], check=True)
        if not (Path(folder) / "street_overlay.png").is_file():
            sys.exit(f"dabnn predict --model {name} wrote no overlay")


if not Path(dabnn.__file__).is_relative_to(sys.prefix):
    sys.exit(f"dabnn was imported from {dabnn.__file__}, not from the wheel in {sys.prefix}")
for name in dabnn.list_models(pretrained=True):
    datasets = dabnn.get_pretrained_cfg(name).datasets
    check(name, dabnn.from_pretrained(name), {key: len(info.classes) for key, info in datasets.items()})
predict("cdcl-pspnet-lite0")
name, classes = "pspnet_lite0_os16", {"north": 19, "south": 11}
check(
    name, dabnn.create_model(name, dataset_names=list(classes), num_classes=list(classes.values())), classes
)
