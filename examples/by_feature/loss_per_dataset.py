"""A loss of its own for one dataset, loss weights, and two batches of one dataset per step."""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch

import dabnn
import dabnn.training
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

    # New code #
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    losses = dict.fromkeys(TOY_DATASETS, dabnn.training.cross_entropy)
    losses["sunvale"] = lambda logits, batch: dice(logits, batch["mask"])
    trainer = dabnn.AlternationTrainer(
        model, loaders, loss=losses, weights={"sunvale": 0.5}, ratios={"northport": 2}
    )
    # End of new code #
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
