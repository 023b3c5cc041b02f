"""per_dataset = joint = fused: the same gradient and the same buffers (Section 3.2; exact up to rounding)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import (
    CLASSES,
    NAMES,
    SmallNet,
    assert_same_step,
    draws,
    segmentation_batch,
    small_model,
    step_once,
)
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import dabnn
from dabnn.training import Draw

PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])


def pspnet() -> nn.Module:
    return smp.PSPNet("resnet18", encoder_weights=None, psp_dropout=0)


def unet() -> nn.Module:
    return smp.Unet("resnet18", encoder_weights=None, decoder_channels=(32, 16, 16, 8, 8))


def timm_classifier() -> nn.Module:
    return timm.create_model("mobilenetv3_small_050", num_classes=4, drop_rate=0)


def torchvision_segmenter() -> nn.Module:
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


def converted(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return dabnn.convert_to_dataset_aware(build(), dataset_names=NAMES, num_classes=CLASSES).train()


def assert_all_modes_agree(
    model: nn.Module, items: Sequence[Draw], tolerance: float = 1e-9, **options: Any
) -> None:
    expected, expected_losses = step_once(model, items, **options)
    for backward in ("joint", "fused"):
        actual, losses = step_once(model, items, backward=backward, **options)
        assert losses == pytest.approx(expected_losses, rel=tolerance)
        assert_same_step(actual, expected, tolerance)


@PRECISIONS
def test_small_net(dtype: torch.dtype, tolerance: float) -> None:
    assert_all_modes_agree(small_model().to(dtype), draws(dtype), tolerance)


@pytest.mark.parametrize("build", [pspnet, unet, torchvision_segmenter])
def test_d05_joint_and_fused_equal_per_dataset_on_real_models(build: Callable[[], nn.Module]) -> None:
    assert_all_modes_agree(converted(build).double(), draws(torch.float64, side=32))


def test_classification_model() -> None:
    model = converted(timm_classifier).double()
    items = [
        Draw(name, (torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randint(classes, (2,))))
        for name, classes in zip(NAMES, CLASSES, strict=True)
    ]
    assert_all_modes_agree(model, items)


def test_a_real_model_in_single_precision() -> None:
    assert_all_modes_agree(converted(unet), draws(side=32, size=4), 1e-5)


def test_several_batches_of_a_dataset_with_loss_weights() -> None:
    model = small_model().double()
    items = [
        Draw(name, segmentation_batch(classes, size=2 + i, seed=i), weight)
        for i, (name, classes, weight) in enumerate(
            [("a", 3, 0.25), ("a", 3, 0.25), ("b", 5, 2.0), ("c", 2, 0.0)]
        )
    ]
    items = [Draw(d.dataset, (d.batch[0].double(), d.batch[1]), d.weight) for d in items]
    assert_all_modes_agree(model, items)


def test_shared_classifier() -> None:
    torch.manual_seed(0)
    model = dabnn.convert_to_dataset_aware(SmallNet(max(CLASSES)), dataset_names=NAMES).double()
    assert_all_modes_agree(model, draws(torch.float64))


def test_a_loss_on_all_outputs_of_the_model() -> None:
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
            self.classifier, self.aux_classifier = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            x = self.body(x)
            return {"out": self.classifier(x), "aux": self.aux_classifier(x)}

    def both(output: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return sum(
            weight * nn.functional.cross_entropy(output[key], batch[1], ignore_index=255)
            for key, weight in (("out", 1.0), ("aux", 0.4))
        )

    model = dabnn.convert_to_dataset_aware(
        TwoOutputs(), dataset_names=NAMES, num_classes=CLASSES, classifier=["classifier", "aux_classifier"]
    ).double()
    assert_all_modes_agree(model, draws(torch.float64), loss=both)


class RandomNet(nn.Module):
    """Convolutions of drawn widths, each with its norm, before a classifier."""

    def __init__(self, widths: list[int], affine: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip([3, *widths], widths, strict=False):
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.BatchNorm2d(after, affine=affine),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(widths[-1], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(x))


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    affine=st.booleans(),
    datasets=st.lists(
        st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=4
    ),
    seed=st.integers(0, 999),
)
def test_any_net_number_of_datasets_batch_size_and_classes(
    widths: list[int], affine: bool, datasets: list[tuple[int, int, int]], seed: int
) -> None:
    torch.manual_seed(seed)
    model = dabnn.convert_to_dataset_aware(
        RandomNet(widths, affine),
        n_datasets=len(datasets),
        num_classes=[classes for classes, _, _ in datasets],
        classifier="classifier",
    ).double()
    items = []
    for i, (classes, size, ratio) in enumerate(datasets):
        for k in range(ratio):
            images, masks = segmentation_batch(classes, size=size, side=4, seed=seed + 7 * i + k)
            items.append(Draw(f"dataset_{i}", (images.double(), masks), 1 / ratio))
    assert_all_modes_agree(model, items)
