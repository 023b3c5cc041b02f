"""Serve one dataset: statistics made exact, the plain network taken out, its batch norms folded."""

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

    # New code #
    for name, loader in loaders.items():
        dabnn.recalibrate_batch_norm(model, loader, dataset=name, max_batches=steps)
    # End of new code #
    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")

    # New code #
    plain = dabnn.extract_dataset(model, TOY_DATASETS[0])
    folded = dabnn.fold_batch_norm(plain)
    image = next(iter(val_loaders[TOY_DATASETS[0]]))["image"]
    with torch.inference_mode():
        difference = (folded(image) - plain.eval()(image)).abs().max()
    print(f"{TOY_DATASETS[0]}: without batch norms, logits differ by {difference:.1e} at most")
    # End of new code #


if __name__ == "__main__":
    main()
