"""Ask a trained network which dataset images of unknown origin are like."""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch

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

    model = smp.Unet("resnet18", encoder_weights=None)
    widths = [len(city.classes) for city in train.values()]
    dabnn.convert_to_dataset_aware(model, dataset_names=TOY_DATASETS, num_classes=widths)

    trainer = dabnn.AlternationTrainer(model, loaders)
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")

    # New code #
    thresholds = dabnn.guess_thresholds(model, val_loaders)
    for name in TOY_DATASETS:
        images = next(iter(SeededLoader(ToyStreets(name, "val", seed=1), 8)))["image"]
        guess = dabnn.guess_dataset(model, images, thresholds=thresholds)
        print(f"eight images of {name} are taken for {guess.datasets}, together for {guess.together}")
    # End of new code #


if __name__ == "__main__":
    main()
