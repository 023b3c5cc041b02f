"""AdamW, cosine schedule, gradient clipping, an average of the weights, bfloat16."""

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

    # New code #
    trainer = dabnn.AlternationTrainer(
        model,
        loaders,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR,
        clip_norm=1.0,
        ema_decay=0.99,
        precision="bf16",
    )
    # End of new code #
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
