"""Add a dataset to a trained network: only its own branch is trained, the others stay bit for bit."""

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
    # New code #
    *old, new = TOY_DATASETS
    dabnn.convert_to_dataset_aware(model, dataset_names=old, num_classes=widths[:-1])
    trainer = dabnn.AlternationTrainer(model, {name: loaders[name] for name in old})
    # End of new code #
    trainer.fit(max_steps=steps)

    # New code #
    dabnn.add_dataset(model, new, num_classes=widths[-1], init_from=old)
    model.requires_grad_(False)
    branch = list(dabnn.branch_parameters(model, new))
    for parameter in branch:
        parameter.requires_grad_(True)
    trainer = dabnn.AlternationTrainer(
        model, {new: loaders[new]}, optimizer=torch.optim.AdamW(branch, lr=1e-3)
    )
    trainer.fit(max_steps=steps)
    dabnn.save_dataset(model, new, f"runs/add_dataset/{new}")
    # End of new code #

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
