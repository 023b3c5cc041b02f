"""Mixed batches train like the same images given by dataset."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_runs import NAMES, assert_equal_state, plain_sgd, segmentation_batch, small_model

from dabnn.errors import ConfigError, DataError
from dabnn.training import AlternationTrainer, MixedLoader
from dabnn.training.mixed import split_mixed

ORDER = torch.tensor([3, 0, 4, 1, 2])  # two images of "a", three of "c", shuffled
IDS = ["a", "a", "c", "c", "c"]


def parts(seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {"a": segmentation_batch(3, size=2, seed=seed), "c": segmentation_batch(2, size=3, seed=seed)}


def mixed(seed: int, form: str = "name") -> dict[str, Any]:
    images, masks = (torch.cat(tensors)[ORDER] for tensors in zip(*parts(seed).values(), strict=True))
    ids: Any = [IDS[i] for i in ORDER.tolist()]
    if form != "name":
        ids = [NAMES.index(name) for name in ids]
    return {"image": images, "mask": masks, "dataset": torch.tensor(ids) if form == "tensor" else ids}


@pytest.mark.parametrize("form", ["name", "index", "tensor"])
@pytest.mark.parametrize("backward", ["per_dataset", "joint", "fused"])
def test_a_mixed_batch_is_a_step_of_the_datasets_in_it(backward: Any, form: str) -> None:
    model, other = small_model(), small_model()
    trainer = AlternationTrainer(
        model,
        [mixed(seed, form) for seed in range(3)],
        optimizer=plain_sgd(model),
        weights={"c": 0.5},
        backward=backward,
    )
    trainer.fit(max_steps=3)
    by_dataset = {name: [reordered(parts(seed)[name], name) for seed in range(3)] for name in ("a", "c")}
    AlternationTrainer(
        other, by_dataset, optimizer=plain_sgd(other), weights={"c": 0.5}, backward=backward
    ).fit(max_steps=3)
    assert_equal_state(model.state_dict(), other.state_dict())


def reordered(batch: tuple[torch.Tensor, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of one dataset in the order in which they stand in the mixed batch."""
    first = IDS.index(name)
    order = [i - first for i in ORDER.tolist() if IDS[i] == name]
    return batch[0][order], batch[1][order]


def test_what_comes_along_is_divided_too() -> None:
    batch = {"dataset": [1, 0, 1], "file": ["x", "y", "z"], "epoch": 4, "mask": torch.arange(3)}
    divided = split_mixed(batch, ("a", "b"))
    assert list(divided) == ["a", "b"]
    assert (divided["a"]["file"], divided["a"]["epoch"]) == (["y"], 4)
    assert divided["b"]["mask"].tolist() == [0, 2]
    assert "dataset" not in divided["a"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8)), "a mapping with 'dataset'"),
        ({"image": torch.zeros(2, 3, 8, 8)}, "a mapping with 'dataset'"),
        (
            {"image": torch.zeros(2, 3, 8, 8), "dataset": ["a", "x"]},
            "unknown dataset 'x'; this model knows {0: 'a', 1: 'b', 2: 'c'}",
        ),
        ({"image": torch.zeros(2, 3, 8, 8), "dataset": [0]}, "1 dataset ids, but 2 entries under 'image'"),
    ],
    ids=["pair", "no ids", "unknown", "short"],
)
def test_malformed_mixed_batches(batch: Any, message: str) -> None:
    trainer = AlternationTrainer(small_model(), [batch])
    with pytest.raises(DataError, match=message):
        trainer.fit(max_steps=1)


def test_ratios_and_weights_of_a_mixed_loader() -> None:
    with pytest.raises(ConfigError, match="a mixed loader decides"):
        AlternationTrainer(small_model(), [], ratios={"a": 2})
    with pytest.raises(ConfigError, match="weights names unknown datasets"):
        MixedLoader([], NAMES, weights={"x": 2.0})
    assert MixedLoader([mixed(0)] * 4, NAMES).steps_per_epoch("longest") == 4
