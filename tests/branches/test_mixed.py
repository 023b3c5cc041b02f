from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_models import assert_equal, aware, image_batch, on

import dabnn
from dabnn.errors import DataError, UnknownDatasetError

NAMES = ("dataset_0", "dataset_1", "dataset_2")
MODEL = aware(num_classes=[5, 2, 3], classifier="classifier")


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.sampled_from(["index", "name", "tensor"]))
def test_a_mixed_batch_equals_separate_calls(ids: list[int], form: str) -> None:
    images = image_batch(len(ids))
    given_ids = {"index": ids, "name": [NAMES[i] for i in ids], "tensor": torch.tensor(ids)}[form]
    outputs = dabnn.forward_mixed(MODEL, images, given_ids)
    assert list(outputs) == [NAMES[i] for i in sorted(set(ids))]
    for name, (positions, output) in outputs.items():
        assert positions.tolist() == [k for k, i in enumerate(ids) if NAMES[i] == name]
        assert_equal(output, on(MODEL, name, images[positions]))
    assert dabnn.active_dataset(MODEL) is None


def test_every_dataset_present_is_one_forward() -> None:
    calls = []
    handle = MODEL.conv1.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    dabnn.forward_mixed(MODEL, image_batch(5), [2, 0, 2, 2, 0])
    handle.remove()
    assert calls == [2, 3]


def test_gradients_reach_the_branches_present_only() -> None:
    model = aware()
    outputs = dabnn.forward_mixed(model, image_batch(3), [0, 2, 0])
    sum(output.sum() for _, output in outputs.values()).backward()
    assert all(p.grad is None for p in dabnn.branch_parameters(model, 1))
    assert all(p.grad is not None for p in dabnn.branch_parameters(model, 2))


def test_wrong_ids() -> None:
    with pytest.raises(DataError, match="2 dataset ids were given for 4 images"):
        dabnn.forward_mixed(MODEL, image_batch(4), [0, 1])
    with pytest.raises(UnknownDatasetError, match="unknown dataset 5"):
        dabnn.forward_mixed(MODEL, image_batch(2), [0, 5])
