"""Classification: what is in the middle of a patch, in two cities with 11 and 7 classes, by one timm model.

Nothing in the converter or the trainer is about segmentation: a batch is (inputs, target), and the loss and
the classifier are those of the model.
"""

from __future__ import annotations

import argparse
from itertools import product

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dabnn
from dabnn.data import ToyStreets

CITIES = ("northport", "sunvale")
SIDE = 32
"""Height and width of a patch."""


def patches(city: ToyStreets, scenes: int) -> TensorDataset:
    """Cut scenes into patches (N, 3, 32, 32) with the class of their middle."""
    images: list[Tensor] = []
    classes: list[Tensor] = []
    for sample in (city[index] for index in range(scenes)):
        image, mask = sample["image"].float() / 127.5 - 1, sample["mask"].long()
        height, width = mask.shape
        for top, left in product(range(0, height - SIDE + 1, 8), range(0, width - SIDE + 1, 8)):
            label = mask[top + SIDE // 2, left + SIDE // 2]
            if label != 255:
                images.append(image[:, top : top + SIDE, left : left + SIDE])
                classes.append(label)
    return TensorDataset(torch.stack(images), torch.stack(classes))


@torch.no_grad()
def accuracy(model: nn.Module, city: str, data: TensorDataset) -> float:
    """Return the share of patches whose class is found, in percent."""
    images, classes = data.tensors
    with dabnn.use_dataset(model.eval(), city):
        found = torch.cat([model(part).argmax(1) for part in images.split(256)])
    return 100 * (found == classes).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    torch.manual_seed(0)

    train = {name: patches(ToyStreets(name), 48) for name in CITIES}
    val = {name: patches(ToyStreets(name, "val"), 16) for name in CITIES}
    classes = [len(ToyStreets(name).classes) for name in CITIES]

    model = timm.create_model("test_resnet", num_classes=max(classes))
    model = dabnn.convert_to_dataset_aware(model, dataset_names=CITIES, num_classes=classes)
    loaders = {name: DataLoader(data, 32, shuffle=True, drop_last=True) for name, data in train.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    trainer = dabnn.AlternationTrainer(model, loaders, optimizer=optimizer)
    trainer.fit(max_steps=steps)

    for name, data in val.items():
        most = 100 * data.tensors[1].bincount().max().item() / len(data)
        print(f"{name}: accuracy {accuracy(model, name, data):.1f} % (the most frequent class: {most:.1f} %)")


if __name__ == "__main__":
    main()
