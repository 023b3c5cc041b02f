"""Small networks, batches and runs that the training tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchvision.tv_tensors import Image, Mask

import dabnn
from dabnn.data import Sample, SeededLoader, SegmentationDataset, train_transform
from dabnn.training import AlternationTrainer, Draw

NAMES = ("a", "b", "c")
CLASSES = (3, 5, 2)
Batch = tuple[Tensor, Tensor]


class SmallNet(nn.Module):
    """Two convolutions with norm and a classifier: (B, 3, H, W) to (B, classes, H, W)."""

    def __init__(self, classes: int = 4, dropout: float = 0.0, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.body(self.stem(x))))


def small_model(
    names: Sequence[str] = NAMES, classes: Sequence[int] = CLASSES, dropout: float = 0.0, seed: int = 0
) -> nn.Module:
    """A converted `SmallNet` with a classifier for each dataset."""
    torch.manual_seed(seed)
    return dabnn.convert_to_dataset_aware(
        SmallNet(dropout=dropout), dataset_names=names, num_classes=classes, classifier="classifier"
    )


def segmentation_batch(classes: int, size: int = 2, side: int = 8, seed: int = 0) -> Batch:
    """Images and masks of ``classes`` classes with some ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, side, side, generator=generator)
    masks = torch.randint(classes, (size, side, side), generator=generator)
    masks[:, 0] = 255
    return images, masks


def batches(count: int = 3, **options: int) -> dict[str, list[Batch]]:
    """``count`` batches for each of the three datasets."""
    return {
        name: [segmentation_batch(classes, seed=10 * d + i, **options) for i in range(count)]
        for d, (name, classes) in enumerate(zip(NAMES, CLASSES, strict=True))
    }


def draws(dtype: torch.dtype = torch.float32, **options: int) -> list[Draw]:
    """One batch of each dataset."""
    return [Draw(name, (items[0][0].to(dtype), items[0][1])) for name, items in batches(1, **options).items()]


def plain_sgd(model: nn.Module, lr: float = 0.1) -> Optimizer:
    return SGD(model.parameters(), lr=lr)


def step_once(model: nn.Module, items: Sequence[Draw], **options: Any) -> tuple[nn.Module, dict[str, float]]:
    """Train a copy of ``model`` for one step; return it, with its gradient in ``.grad``, and the losses."""
    model = deepcopy(model)
    names = dict.fromkeys(draw.dataset for draw in items)
    trainer = AlternationTrainer(model, {name: [] for name in names}, optimizer=plain_sgd(model), **options)
    return model, trainer.train_step(items)


def gradient(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Norm of the difference relative to the norm, over all tensors together."""
    assert actual.keys() == expected.keys()
    difference = sum((actual[key] - expected[key]).detach().double().square().sum() for key in expected)
    total = sum(expected[key].detach().double().square().sum() for key in expected)
    return float(difference / total) ** 0.5


def assert_same_step(actual: nn.Module, expected: nn.Module, tolerance: float) -> None:
    """The whole gradient, and every buffer, agree."""
    assert gradient(expected)
    assert distance(gradient(actual), gradient(expected)) <= tolerance
    for (name, a), (_, b) in zip(actual.named_buffers(), expected.named_buffers(), strict=True):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_equal_state(actual: Any, expected: Any) -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(expected, Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, Mapping):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_equal_state(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_equal_state(a, b)
    else:
        assert actual == expected


class Blobs(SegmentationDataset):
    """Noise whose bright pixels are class 1: learnt in a few steps."""

    classes = ("dark", "bright")
    palette = ((0, 0, 0), (255, 255, 255))

    def __init__(self, name: str, length: int = 10, side: int = 20) -> None:
        self.name = name
        self.length = length
        self.side = side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(1000 * ord(self.name[0]) + index)
        image = torch.randint(256, (3, self.side, self.side), generator=generator, dtype=torch.uint8)
        return {"image": Image(image), "mask": Mask((image[0] > 127).byte())}


def seeded_loaders(num_workers: int = 0) -> dict[str, SeededLoader]:
    """Two datasets of different length, randomly cropped, scaled and flipped."""
    transform = train_transform((16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    return {
        name: SeededLoader(Blobs(name, length), 2, transform=transform, num_workers=num_workers)
        for name, length in (("a", 10), ("b", 7))
    }
