"""What a batch may be, and the default loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dabnn.batch import inputs_of, target_of
from dabnn.errors import ConfigError, DataError
from dabnn.training import cross_entropy
from dabnn.training.batch import to_channels_last

IMAGES = torch.randn(2, 3, 4, 4)
MASKS = torch.randint(5, (2, 4, 4))
LOGITS = torch.randn(2, 5, 4, 4)


@pytest.mark.parametrize(
    "batch", [(IMAGES, MASKS), [IMAGES, MASKS], {"image": IMAGES, "mask": MASKS, "name": "x"}]
)
def test_pairs_and_mappings_are_batches(batch: Any) -> None:
    assert inputs_of(batch) is IMAGES
    assert target_of(batch) is MASKS
    assert cross_entropy(LOGITS, batch) == F.cross_entropy(LOGITS, MASKS)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"images": IMAGES}, r"needs the key 'image', it has \['images'\]"),
        ((IMAGES, MASKS, MASKS), "got a tuple of 3"),
        (IMAGES, "got a Tensor"),
    ],
)
def test_anything_else_is_named(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        inputs_of(batch)


def test_loss_is_the_mean_over_labelled_pixels() -> None:
    masks = MASKS.clone()
    masks[0] = 255
    expected = F.cross_entropy(LOGITS[1:], MASKS[1:])
    torch.testing.assert_close(cross_entropy(LOGITS, (IMAGES, masks)), expected)


def test_a_batch_without_labels_gives_zero_and_a_zero_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = cross_entropy(logits, (IMAGES, torch.full_like(MASKS, 255)))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_smaller_logits_are_resized_and_torchvisions_mapping_is_read() -> None:
    small = torch.randn(2, 5, 2, 2)
    expected = F.cross_entropy(F.interpolate(small, (4, 4), mode="bilinear", align_corners=False), MASKS)
    assert cross_entropy({"out": small, "aux": LOGITS}, (IMAGES, MASKS)) == expected


def test_classification_and_narrow_integer_targets() -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 3, 3], dtype=torch.uint8)
    assert cross_entropy(logits, (None, labels)) == F.cross_entropy(logits, labels.long())


@pytest.mark.parametrize("wrong", [7, -1])
def test_class_ids_out_of_range_are_named(wrong: int) -> None:
    masks = MASKS.clone()
    masks[1, 2, 3] = wrong
    with pytest.raises(DataError, match=rf"class ids \[{wrong}\], but the output has 5 classes \(0 to 4"):
        cross_entropy(LOGITS, (IMAGES, masks))


@pytest.mark.parametrize("output", [(LOGITS, LOGITS), {"logits": LOGITS}])
def test_other_outputs_ask_for_a_loss_function(output: Any) -> None:
    with pytest.raises(ConfigError, match="pass loss="):
        cross_entropy(output, (IMAGES, MASKS))


def test_channels_last_changes_images_only() -> None:
    for batch in ((IMAGES, MASKS), {"image": IMAGES, "mask": MASKS}):
        converted = to_channels_last(batch)
        assert type(converted) is type(batch)
        assert inputs_of(converted).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(inputs_of(converted), IMAGES)
        assert target_of(converted) is MASKS
    points = (torch.randn(2, 3, 10), MASKS)
    assert to_channels_last(points) is points
    assert to_channels_last("no batch") == "no batch"


def test_a_mask_that_was_scaled_like_an_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"torch\.float32, not class ids"):
        cross_entropy(torch.zeros(1, 3, 4, 4), (torch.zeros(1, 3, 4, 4), torch.rand(1, 4, 4)))
