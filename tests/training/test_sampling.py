"""Which batches the steps get from loaders of different length."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from small_runs import Blobs
from torch.utils.data import DataLoader, DistributedSampler

from dabnn.data import SeededLoader
from dabnn.errors import CheckpointError, ConfigError, DabnnWarning, DataError
from dabnn.training import Draw
from dabnn.training.loaders import AlternatingLoaders

LENGTHS = {"a": ["a0", "a1", "a2", "a3", "a4"], "b": ["b0", "b1"]}


class Endless:
    """An iterable without a length."""

    def __iter__(self) -> Iterator[str]:
        n = 0
        while True:
            yield f"e{n}"
            n += 1


def drawn(loaders: AlternatingLoaders, steps: int) -> list[list[Any]]:
    return [[draw.batch for draw in loaders.draw()] for _ in range(steps)]


def test_a_loader_divided_by_torch_gives_another_order_in_each_epoch() -> None:
    numbers = list(range(20))
    sampler = DistributedSampler(numbers, num_replicas=2, rank=1)
    loader = DataLoader(numbers, batch_size=10, sampler=sampler)
    first, second = (drawn(AlternatingLoaders({"a": loader}), 2)[k][0] for k in (0, 1))
    assert first.tolist() != second.tolist()


def test_a_short_loader_starts_over() -> None:
    assert drawn(AlternatingLoaders(LENGTHS), 5) == [
        ["a0", "b0"],
        ["a1", "b1"],
        ["a2", "b0"],
        ["a3", "b1"],
        ["a4", "b0"],
    ]


def test_a_loader_that_shuffles_starts_over_in_another_order() -> None:
    loaders = AlternatingLoaders(
        {
            "torch": DataLoader(range(50), batch_size=50, shuffle=True),
            "ours": SeededLoader(Blobs("x", 30), 30),
        }
    )
    (torch_0, ours_0), (torch_1, ours_1) = drawn(loaders, 2)
    assert sorted(torch_0.tolist()) == sorted(torch_1.tolist()) == list(range(50))
    assert not torch.equal(torch_0, torch_1)
    assert not torch.equal(ours_0["mask"], ours_1["mask"])


def test_ratios_and_weights() -> None:
    loaders = AlternatingLoaders(LENGTHS, weights={"a": 3.0}, ratios={"a": 2})
    assert loaders.draw() == [Draw("a", "a0", 1.5), Draw("a", "a1", 1.5), Draw("b", "b0", 1.0)]
    assert [draw.batch for draw in loaders.draw()] == ["a2", "a3", "b1"]
    assert [draw.batch for draw in loaders.draw()] == ["a4", "a0", "b0"]


@pytest.mark.parametrize(
    ("ratios", "longest", "shortest"), [(None, 5, 2), ({"a": 2}, 3, 2), ({"a": 3, "b": 2}, 2, 1)]
)
def test_epochs(ratios: dict[str, int] | None, longest: int, shortest: int) -> None:
    loaders = AlternatingLoaders(LENGTHS, ratios=ratios)
    assert loaders.steps_per_epoch("longest") == longest
    assert loaders.steps_per_epoch("shortest") == shortest
    with pytest.raises(ConfigError, match=r"one of \('longest', 'shortest'\), got 'mean'"):
        loaders.steps_per_epoch("mean")  # type: ignore[arg-type]


def test_an_iterable_without_length_has_steps_but_no_epochs() -> None:
    loaders = AlternatingLoaders({"a": LENGTHS["a"], "endless": Endless()})
    assert drawn(loaders, 2) == [["a0", "e0"], ["a1", "e1"]]
    with pytest.raises(ConfigError, match=r"'endless' has no length.*max_steps"):
        loaders.steps_per_epoch("longest")


def test_an_empty_loader_is_named() -> None:
    loaders = AlternatingLoaders({"a": LENGTHS["a"], "b": []})
    with pytest.raises(DataError, match=r"'b' has no more batches; .*drop_last"):
        loaders.draw()
    with pytest.raises(DataError, match="'b' is empty"):
        loaders.steps_per_epoch("longest")


def test_an_iterator_that_cannot_start_over_is_named() -> None:
    loaders = AlternatingLoaders({"a": LENGTHS["a"], "once": iter(["o0", "o1"])})
    assert drawn(loaders, 2) == [["a0", "o0"], ["a1", "o1"]]
    with pytest.raises(DataError, match="'once' has no more batches; it can be read only once"):
        loaders.draw()


def test_an_error_of_a_loader_names_its_dataset() -> None:
    def broken() -> Iterator[str]:
        yield "x0"
        raise OSError("disk gone")

    loaders = AlternatingLoaders({"a": LENGTHS["a"], "broken": broken()})
    loaders.draw()
    with pytest.raises(OSError, match="disk gone") as info:
        loaders.draw()
    assert info.value.__notes__ == ["This was raised by the loader of dataset 'broken'."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"c": 1.0}}, r"weights names unknown datasets \['c'\]; there are \['a', 'b'\]"),
        ({"ratios": {"c": 1}}, "ratios names unknown datasets"),
        ({"ratios": {"a": 0}}, r"ratios\['a'\] must be a positive"),
        ({"ratios": {"a": 1.5}}, r"ratios\['a'\] must be a positive"),
        ({"weights": {"a": -1.0}}, r"weights\['a'\] must be finite and not negative"),
        ({"weights": {"a": float("nan")}}, "must be finite"),
        ({"weights": {"a": float("inf")}}, "must be finite"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlternatingLoaders(LENGTHS, **options)


class Stateful:
    """A loader of someone else's that can restore its position."""

    def __init__(self, length: int) -> None:
        self.length, self.position = length, 0

    def __iter__(self) -> Iterator[int]:
        while self.position < self.length:
            self.position += 1
            yield self.position
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 8, 9])
def test_loaders_with_a_state_continue_exactly_at_any_point(steps: int) -> None:
    def make() -> AlternatingLoaders:
        return AlternatingLoaders(
            {"theirs": Stateful(4), "ours": SeededLoader(Blobs("x", 10), 2)}, ratios={"ours": 2}
        )

    first = make()
    drawn(first, steps)
    second = make()
    second.load_state_dict(first.state_dict())
    for ours, theirs in zip(drawn(first, 7), drawn(second, 7), strict=True):
        assert ours[0] == theirs[0]
        assert all(torch.equal(x["image"], y["image"]) for x, y in zip(ours[1:], theirs[1:], strict=True))


def test_a_loader_without_a_state_is_read_forward_with_a_warning() -> None:
    first, second = AlternatingLoaders(LENGTHS), AlternatingLoaders(LENGTHS)
    drawn(first, 3)
    with pytest.warns(DabnnWarning) as warnings:
        second.load_state_dict(first.state_dict())
    messages = [str(warning.message) for warning in warnings]
    assert "'a' has no state_dict: reading 3 batches forward" in messages[0]
    assert "'b' has no state_dict: reading 1 batches forward" in messages[1]
    assert drawn(second, 4) == drawn(first, 4)


def test_a_state_for_another_kind_of_loader_is_refused() -> None:
    state = AlternatingLoaders({"a": SeededLoader(Blobs("x", 10), 2)}).state_dict()
    with pytest.raises(CheckpointError, match="loader of dataset 'a' cannot restore"):
        AlternatingLoaders({"a": ["a0"]}).load_state_dict(state)


def test_the_position_is_counted_without_reading_ahead() -> None:
    read = []

    def source() -> Iterator[int]:
        for n in range(10):
            read.append(n)
            yield n

    loaders = AlternatingLoaders({"a": source()})
    assert list(islice(iter(lambda: loaders.draw()[0].batch, None), 3)) == [0, 1, 2]
    assert read == [0, 1, 2]
