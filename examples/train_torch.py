"""One network for one dataset, in plain PyTorch. `train_dabnn.py` is the same for three datasets."""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from dabnn.data import SeededLoader, ToyStreets
from dabnn.evaluation import SegmentationMetric, evaluate_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)

    city = ToyStreets("northport")
    loader = SeededLoader(city, batch_size=8)
    model = smp.Unet("resnet18", encoder_weights=None, classes=len(city.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    step = 0
    while step < steps:
        for batch in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch["image"]), batch["mask"], ignore_index=255)
            loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                break

    val = ToyStreets(city.name, "val")
    val_loader = SeededLoader(val, batch_size=8, shuffle=False, drop_last=False)
    result = evaluate_model(model, val_loader, SegmentationMetric(val.classes), "cpu")
    print(f"{city.name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
