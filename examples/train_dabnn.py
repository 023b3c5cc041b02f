"""One network for three datasets: `train_torch.py` with dabnn's conversion and a loop over datasets."""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

import dabnn
from dabnn.data import TOY_DATASETS, SeededLoader, ToyStreets
from dabnn.evaluation import SegmentationMetric, evaluate_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)

    cities = [ToyStreets(name) for name in TOY_DATASETS]
    loaders = [SeededLoader(city, batch_size=8) for city in cities]
    widths = [len(city.classes) for city in cities]
    model = smp.Unet("resnet18", encoder_weights=None)
    dabnn.convert_to_dataset_aware(model, dataset_names=TOY_DATASETS, num_classes=widths)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    step = 0
    while step < steps:
        for batches in zip(*loaders, strict=False):
            optimizer.zero_grad()
            for city, batch in zip(cities, batches, strict=True):
                with dabnn.use_dataset(model, city.name):
                    loss = F.cross_entropy(model(batch["image"]), batch["mask"], ignore_index=255)
                    loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                break

    for city in cities:
        val = ToyStreets(city.name, "val")
        val_loader = SeededLoader(val, batch_size=8, shuffle=False, drop_last=False)
        with dabnn.use_dataset(model, city.name):
            result = evaluate_model(model, val_loader, SegmentationMetric(val.classes), "cpu")
        print(f"{city.name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
