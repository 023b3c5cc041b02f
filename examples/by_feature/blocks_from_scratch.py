"""A network built from the paper's Dataset-Aware Blocks, without any conversion."""

from __future__ import annotations

import argparse

import torch
from torch import nn

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
    selection = dabnn.DatasetSelection(TOY_DATASETS)
    heads = [nn.Conv2d(64, len(city.classes), 1) for city in train.values()]
    model = nn.Sequential(
        dabnn.DatasetAwareBlock(3, 32, selection=selection, stride=2),
        dabnn.DatasetAwareBlock(32, 64, selection=selection),
        dabnn.DatasetAwareBlock(64, 64, selection=selection, dilation=2),
        dabnn.DatasetAwareBlock(64, 64, selection=selection, dilation=4),
        dabnn.DatasetAwareHead(heads, selection),
    )
    # End of new code #

    trainer = dabnn.AlternationTrainer(model, loaders)
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
