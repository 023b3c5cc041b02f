from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dabnn.batch import IGNORE_INDEX
from dabnn.data import (
    JoinedDataset,
    LabelMap,
    RelabelledDataset,
    ToyStreets,
    check_dataset,
    list_maps,
    list_spaces,
    load_map,
    load_space,
    unite,
)
from dabnn.errors import DataError

ABC, XY = ("a", "b", "c"), ("x", "y", "z")
MAP = LabelMap(ABC, XY, {"a": "x", "b": None, "c": "x"})


def test_masks_are_relabelled_and_void_stays_void() -> None:
    mask = torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8)
    assert MAP.relabel(mask).tolist() == [[0, 255, 0, 255]]
    assert MAP.relabel(mask).dtype == torch.uint8


@given(st.integers(0, 2**31))
def test_projected_probabilities_are_sums(seed: int) -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    exact = LabelMap(ABC, XY, {"a": "y", "b": "x", "c": "y"})
    before, after = logits.softmax(1), exact.project(logits).softmax(1)
    torch.testing.assert_close(after[:, 1], before[:, 0] + before[:, 2])
    torch.testing.assert_close(after[:, 0], before[:, 1])
    assert (after[:, 2] == 0).all()


def test_classes_without_a_counterpart_do_not_count_in_a_projection() -> None:
    logits = torch.tensor([1.0, 9.0, 2.0]).view(1, 3, 1)
    assert MAP.project(logits).softmax(1).flatten().tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="logits of 2 classes do not fit a map of 3"):
        MAP.project(logits[:, :2])


@pytest.mark.parametrize(
    ("classes", "message"),
    [({"a": "x", "b": "y"}, r"missing \['c'\]"), ({"a": "x", "b": "y", "c": "w"}, r"unknown \['w'\]")],
)
def test_a_map_must_be_complete(classes: dict[str, str | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelMap(ABC, XY, classes)


@pytest.mark.parametrize(("source", "target"), list_maps())
def test_shipped_maps_are_complete_and_keep_what_has_the_same_name(source: str, target: str) -> None:
    label_map = load_map(source, target)
    for name in set(label_map.source) & set(label_map.target):
        assert label_map.classes[name] == name
    assert label_map.origin


def test_ids_of_pascal_context_become_those_of_cityscapes_by_name() -> None:
    source, target = load_space("pascal_context"), load_space("cityscapes")
    ids = torch.tensor([source.classes.index(name) for name in ("motorbike", "tree", "sign", "tvmonitor")])
    found = load_map("pascal_context", "cityscapes").relabel(ids).tolist()
    assert [target.classes[i] for i in found[:3]] == ["motorcycle", "vegetation", "traffic sign"]
    assert found[3] == IGNORE_INDEX


@pytest.mark.parametrize("name", list_spaces())
def test_shipped_label_spaces_are_consistent(name: str) -> None:
    space = load_space(name)
    assert len(space.palette) == len(space.classes) == len(set(space.ids.values()))
    assert not space.void & space.ids.keys()
    assert (space.table() == IGNORE_INDEX).sum() == len(space.void)


def test_maps_agree_where_they_meet() -> None:
    """IDD to Cityscapes to IDD-Lite is IDD to IDD-Lite."""
    direct, first, second = (
        load_map(a, b) for a, b in (("idd", "idd_lite"), ("idd", "cityscapes"), ("cityscapes", "idd_lite"))
    )
    for name in direct.source:
        middle = first.classes[name]
        assert middle is None or second.classes[middle] == direct.classes[name]


def test_unknown_maps_and_spaces_name_the_known_ones() -> None:
    with pytest.raises(DataError, match="no label map camvid to kitti; there are camvid to cityscapes"):
        load_map("camvid", "kitti")
    with pytest.raises(DataError, match="unknown label space 'kitti'; there are camvid"):
        load_space("kitti")


def test_a_union_holds_every_class_once() -> None:
    camvid, lite = load_space("camvid"), load_space("idd_lite")
    union, (first, second) = unite([camvid, lite])
    assert union.classes[:11] == camvid.classes
    assert len(union.classes) == 11 + 7 - 1  # both have sky
    assert union.palette[0] == camvid.palette[0]
    assert second.relabel(torch.tensor([lite.classes.index("sky")])).tolist() == [0]
    assert first.ids() == list(range(11))


def test_a_relabelled_dataset_has_the_new_classes_and_the_old_images() -> None:
    dataset = ToyStreets("northport", length=3)
    target = load_space("idd_lite")
    classes = dict.fromkeys(dataset.classes, "drivable")
    relabelled = RelabelledDataset(
        dataset, LabelMap(dataset.classes, target.classes, classes), target, name="n"
    )
    assert (relabelled.name, relabelled.classes, len(relabelled)) == ("n", target.classes, 3)
    assert torch.equal(relabelled[1]["image"], dataset[1]["image"])
    pixels = check_dataset(relabelled).pixels
    assert pixels.pop("drivable") > 0
    assert not any(pixels.values())
    with pytest.raises(DataError, match="the map is from"):
        RelabelledDataset(relabelled, load_map("cityscapes", "idd_lite"), target)


def test_joined_datasets_come_one_after_the_other() -> None:
    parts = [ToyStreets("northport", length=2), ToyStreets("northport", "val", length=1)]
    joined = JoinedDataset(parts, "both")
    assert len(joined) == 3
    assert torch.equal(joined[2]["image"], parts[1][0]["image"])
    with pytest.raises(IndexError, match="samples 0 to 2, not -1"):
        joined[-1]
    with pytest.raises(DataError, match="same classes can be joined"):
        JoinedDataset([*parts, ToyStreets("sunvale")], "all")
