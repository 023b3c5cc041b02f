"""A torchvision network: both convolutions of its classifier are found."""

from __future__ import annotations

import argparse

import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import dabnn
from dabnn.data import TOY_DATASETS, SeededLoader, ToyStreets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)

    train = {name: ToyStreets(name) for name in TOY_DATASETS}
    val = {name: ToyStreets(name, "val") for name in TOY_DATASETS}
    loaders = {name: SeededLoader(city, batch_size=8) for name, city in train.items()}
    val_loaders = {name: SeededLoader(city, 8, shuffle=False, drop_last=False) for name, city in val.items()}

    # New code #
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    # End of new code #
    widths = [len(city.classes) for city in train.values()]
    dabnn.convert_to_dataset_aware(model, dataset_names=TOY_DATASETS, num_classes=widths)

    trainer = dabnn.AlternationTrainer(model, loaders)
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
