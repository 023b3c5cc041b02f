from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dabnn.data import FolderDataset, SeededLoader
from dabnn.errors import DataError
from dabnn.evaluation import SegmentationMetric, eval_mode, evaluate_model, predict_logits

SIZES = st.integers(1, 40)


class Net(nn.Module):
    """A pixelwise classifier that refuses sizes off the divisor and may return a smaller map."""

    def __init__(
        self, divisor: int = 1, stride: int = 1, wrap: Callable[[Tensor], Any] = lambda logits: logits
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.pool = nn.AvgPool2d(stride)
        self.divisor = divisor
        self.wrap = wrap

    def forward(self, images: Tensor) -> Any:
        if images.shape[-2] % self.divisor or images.shape[-1] % self.divisor:
            raise RuntimeError(f"size {tuple(images.shape[-2:])} is no multiple of {self.divisor}")
        return self.wrap(self.pool(self.norm(self.conv(images))))


@given(height=SIZES, width=SIZES, divisor=st.sampled_from([1, 2, 8, 32]))
def test_padding_does_not_change_a_pixelwise_model(height: int, width: int, divisor: int) -> None:
    model = Net(divisor).eval()
    images = torch.rand(2, 3, height, width)

    logits = predict_logits(model, images, divisor=divisor)

    model.divisor = 1
    assert logits.shape == (2, 2, height, width)
    torch.testing.assert_close(logits, model(images))


def test_image_of_a_fitting_size_reaches_the_model_as_it_is() -> None:
    seen: list[Tensor] = []
    model = Net()
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    images = torch.rand(1, 3, 32, 64)

    logits = predict_logits(model.eval(), images)

    assert torch.equal(seen[0], images)
    assert torch.equal(logits, model(images))


def test_padding_repeats_the_border_at_the_right_and_the_bottom() -> None:
    seen: list[Tensor] = []
    model = Net()
    model.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    images = torch.rand(1, 3, 30, 31)

    predict_logits(model, images)

    (padded,) = seen
    assert padded.shape == (1, 3, 32, 32)
    assert torch.equal(padded[..., :30, :31], images)
    assert torch.equal(padded[..., 30:, :31], images[..., -1:, :].expand(-1, -1, 2, -1))
    assert torch.equal(padded[..., :30, 31], images[..., -1])


def test_smaller_logits_are_resized_to_the_padded_input_before_cropping() -> None:
    model = Net(divisor=8, stride=4).eval()
    images = torch.rand(1, 3, 20, 29)

    logits = predict_logits(model, images, divisor=8)

    small = model(nn.functional.pad(images, (0, 3, 0, 4), mode="replicate"))
    expected = nn.functional.interpolate(small, size=(24, 32), mode="bilinear", align_corners=False)
    assert torch.equal(logits, expected[..., :20, :29])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: {"out": logits, "aux": logits + 1},
        lambda logits: (logits, logits + 1),
        lambda logits: [logits],
    ],
    ids=["tensor", "torchvision", "tuple", "list"],
)
def test_forms_of_output(wrap: Callable[[Tensor], Any]) -> None:
    model = Net(wrap=wrap).eval()
    images = torch.rand(1, 3, 32, 32)

    logits = predict_logits(model, images)

    model.wrap = lambda logits: logits
    assert torch.equal(logits, model(images))


@pytest.mark.parametrize(
    ("wrap", "shown"),
    [
        (lambda logits: {"logits": logits}, "dict"),
        (lambda logits: logits.mean((2, 3)), r"shape \(1, 2\)"),
        (lambda _logits: (), "tuple"),
    ],
)
def test_output_that_is_no_segmentation(wrap: Callable[[Tensor], Any], shown: str) -> None:
    with pytest.raises(TypeError, match=f"this output is .*{shown}: wrap the model"):
        predict_logits(Net(wrap=wrap), torch.rand(1, 3, 32, 32))


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def frozen_net() -> Net:
    model = Net().train()
    model.norm.eval()
    return model


def batches() -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        mask = torch.randint(0, 2, (2, 20, 27), generator=generator)
        mask[:, :2] = 255
        yield {"image": torch.rand(2, 3, 20, 27, generator=generator), "mask": mask}


@pytest.mark.parametrize("as_pairs", [False, True])
def test_evaluation_equals_a_loop_by_hand(as_pairs: bool) -> None:
    model, metric = Net().train(), SegmentationMetric(["a", "b"])
    loader = [(batch["image"], batch["mask"]) for batch in batches()] if as_pairs else batches()
    state = {key: value.clone() for key, value in model.state_dict().items()}

    result = evaluate_model(model, loader, metric, "cpu")

    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    by_hand = SegmentationMetric(["a", "b"])
    model.eval()
    for batch in batches():
        by_hand.update(model(batch["image"]), batch["mask"])
    assert torch.equal(result.confusion, by_hand.compute().confusion)
    assert result.confusion.sum() == 6 * 18 * 27


def test_each_evaluation_starts_from_nothing() -> None:
    model, metric = Net(), SegmentationMetric(["a", "b"])
    first = evaluate_model(model, batches(), metric, "cpu")
    second = evaluate_model(model, batches(), metric, torch.device("cpu"))
    assert torch.equal(first.confusion, second.confusion)

    metric.update(*(torch.zeros(1, 2, 2).long(),) * 2)
    assert metric.compute().confusion.sum() == first.confusion.sum() + 4


def test_model_runs_in_eval_mode_without_gradients() -> None:
    seen: list[tuple[bool, bool, bool]] = []
    model = frozen_net()
    model.register_forward_hook(
        lambda module, _args, output: seen.append(
            (any(flags(module)), output.requires_grad, output.is_inference())
        )
    )
    evaluate_model(model, batches(), SegmentationMetric(["a", "b"]), "cpu")
    assert set(seen) == {(False, False, True)}


def test_training_flags_come_back() -> None:
    model = frozen_net()
    before = flags(model)
    evaluate_model(model, batches(), SegmentationMetric(["a", "b"]), "cpu")
    assert flags(model) == before
    assert not model.norm.training


def test_training_flags_come_back_after_an_error() -> None:
    model = frozen_net()
    before = flags(model)
    model.divisor = 31
    with pytest.raises(RuntimeError, match="no multiple of 31"):
        evaluate_model(model, batches(), SegmentationMetric(["a", "b"]), "cpu")
    assert flags(model) == before
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert flags(model) == before


def test_empty_loader() -> None:
    with pytest.raises(DataError, match="is the loader empty"):
        evaluate_model(Net(), [], SegmentationMetric(["a", "b"]), "cpu")


@pytest.mark.data
def test_real_pixels_are_counted_once_each(data_root: Path) -> None:
    """227 rows are no multiple of 32: padded inside, but never counted."""
    dataset = FolderDataset(data_root / "idd-lite", "dev")
    loader = SeededLoader(dataset, 8, shuffle=False, drop_last=False)
    model = Net()
    model.conv = nn.Conv2d(3, 7, 1)
    model.norm = nn.BatchNorm2d(7)

    result = evaluate_model(model, loader, SegmentationMetric(dataset.classes), "cpu")

    assert result.confusion.sum() == sum(int((batch["mask"] != 255).sum()) for batch in loader)
    assert 0 <= result.miou < 40
