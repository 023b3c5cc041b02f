"""Uses dabnn as a user who installed it does; run by `make wheel` with the wheel in a fresh environment."""

import sys
from pathlib import Path

import torch

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


if not Path(dabnn.__file__).is_relative_to(sys.prefix):
    sys.exit(f"dabnn was imported from {dabnn.__file__}, not from the wheel in {sys.prefix}")
for name in dabnn.list_models(pretrained=True):
    datasets = dabnn.get_pretrained_cfg(name).datasets
    check(name, dabnn.from_pretrained(name), {key: len(info.classes) for key, info in datasets.items()})
name, classes = "pspnet_lite0_os16", {"north": 19, "south": 11}
check(
    name, dabnn.create_model(name, dataset_names=list(classes), num_classes=list(classes.values())), classes
)
