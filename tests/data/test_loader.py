from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torchvision.tv_tensors import Image, Mask

from dabnn.data import Batch, FolderDataset, Sample, SeededLoader, SegmentationDataset, train_transform
from dabnn.errors import DataError

# Python 3.12 on warns about any fork beside threads; torch starts its workers that way.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

TRANSFORM = train_transform((16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


class Numbers(SegmentationDataset):
    """Sample i is an image and a mask of the value i."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (255, 255, 255))

    def __init__(self, length: int = 11, name: str = "numbers", uneven: bool = False) -> None:
        self.name = name
        self.length = length
        self.uneven = uneven

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        height = 24 + index if self.uneven else 24
        ids = torch.full((height, 32), index, dtype=torch.uint8)
        return {"image": Image(ids.expand(3, -1, -1)), "mask": Mask(ids)}


def make_loader(**options: object) -> SeededLoader:
    return SeededLoader(Numbers(), 2, **{"transform": TRANSFORM, "seed": 3} | options)  # type: ignore[arg-type]


def take(loader: SeededLoader, count: int) -> list[Batch]:
    """Return the next ``count`` batches, starting new epochs where needed."""
    batches: list[Batch] = []
    while len(batches) < count:
        batches += islice(loader, count - len(batches))
    return batches


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a[key], b[key])
        for a, b in zip(left, right, strict=True)
        for key in ("image", "mask")  # type: ignore[literal-required]
    )


def ids(batches: list[Batch]) -> list[int]:
    return [int(mask.min()) for batch in batches for mask in batch["mask"]]


def in_order(**options: object) -> SeededLoader:
    return make_loader(transform=None, shuffle=False, drop_last=False, **options)


@WORKERS
def test_batches_are_floats_and_ids(num_workers: int) -> None:
    for batch in (next(iter(make_loader(num_workers=num_workers))), next(iter(in_order()))):
        assert set(batch) == {"image", "mask"}
        assert batch["image"].dtype == torch.float32
        assert batch["mask"].dtype == torch.int64
        assert type(batch["image"]) is type(batch["mask"]) is Tensor
        assert batch["image"].shape[1] == 3
        assert batch["image"].shape[2:] == batch["mask"].shape[1:]


def test_without_a_transform_images_are_in_0_to_1() -> None:
    batch = next(iter(in_order()))
    assert torch.equal(batch["image"][1], torch.full((3, 24, 32), 1 / 255))


def test_batches_depend_on_nothing_but_seed_name_epoch_and_index() -> None:
    expected = take(make_loader(), 12)

    torch.manual_seed(1234)
    torch.rand(7)
    assert same(take(make_loader(), 12), expected)
    assert same(take(make_loader(num_workers=2), 12), expected)


def test_the_order_of_a_seed_is_the_same_in_every_process() -> None:
    loader = SeededLoader(Numbers(8), 4, seed=0, transform=None)
    assert ids(take(loader, 4)) == [2, 4, 7, 0, 1, 3, 5, 6, 4, 1, 2, 6, 5, 3, 7, 0]


@pytest.mark.parametrize("other", [{"seed": 4}, {"dataset": Numbers(name="others")}])
def test_another_seed_or_name_gives_other_batches(other: dict[str, object]) -> None:
    options = {"dataset": Numbers(), "seed": 3} | other
    loader = SeededLoader(batch_size=2, transform=TRANSFORM, **options)  # type: ignore[arg-type]
    assert ids(take(loader, 5)) != ids(take(make_loader(), 5))


@WORKERS
def test_every_epoch_is_another_permutation_and_another_draw(num_workers: int) -> None:
    loader = SeededLoader(Numbers(10), 2, transform=TRANSFORM, num_workers=num_workers)
    first, second = list(loader), list(loader)

    assert sorted(ids(first)) == sorted(ids(second)) == list(range(10))
    assert ids(first) != ids(second)

    unshuffled = in_order(num_workers=num_workers)
    unshuffled.dataset.transform = TRANSFORM  # type: ignore[attr-defined]
    assert not same(list(unshuffled), list(unshuffled))


def test_loading_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    take(make_loader(), 7)
    take(make_loader(num_workers=2), 2)
    assert torch.equal(torch.get_rng_state(), before)


@WORKERS
@pytest.mark.parametrize("stop", [0, 1, 4, 5, 6, 13])
def test_resume_continues_exactly(stop: int, num_workers: int) -> None:
    expected = take(make_loader(), 20)
    first = make_loader(num_workers=num_workers)
    take(first, stop)

    resumed = make_loader(num_workers=2 - num_workers)
    random.seed(stop)
    torch.manual_seed(stop)
    resumed.load_state_dict(first.state_dict())

    assert same(take(resumed, 20 - stop), expected[stop:])


@WORKERS
def test_state_counts_batches_handed_out_and_not_those_prepared(num_workers: int) -> None:
    loader = make_loader(num_workers=num_workers)
    states = []
    for _ in range(2):
        for _batch in loader:
            states.append(loader.state_dict())

    assert len(loader) == 5
    assert loader.state_dict() == {"epoch": 2, "batch": 0}
    assert [(state["epoch"], state["batch"]) for state in states] == [
        *[(0, 1), (0, 2), (0, 3), (0, 4), (1, 0)],
        *[(1, 1), (1, 2), (1, 3), (1, 4), (2, 0)],
    ]


@WORKERS
def test_an_iteration_left_early_is_continued_by_the_next(num_workers: int) -> None:
    loader = make_loader(num_workers=num_workers)
    pieces = take(loader, 2) + take(loader, 1) + list(loader) + list(loader)
    assert same(pieces, take(make_loader(), 10))


@WORKERS
def test_an_evaluation_pass_always_covers_the_whole_set(num_workers: int) -> None:
    loader = in_order(num_workers=num_workers)
    next(iter(loader))

    for _ in range(2):
        assert ids(list(loader)) == list(range(11))
    assert len(loader) == 6


@WORKERS
def test_an_unshuffled_loader_resumes_too(num_workers: int) -> None:
    loader = in_order(num_workers=num_workers)
    loader.load_state_dict({"epoch": 0, "batch": 4})

    assert ids(list(loader)) == [8, 9, 10]
    assert ids(list(loader)) == list(range(11))


def test_workers_live_on_between_epochs() -> None:
    loader = make_loader(num_workers=2)
    list(loader)
    workers = [worker.pid for worker in loader._iterator._workers]  # type: ignore[union-attr]
    list(loader)
    assert [worker.pid for worker in loader._iterator._workers] == workers  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "state", [{"epoch": 0, "batch": 5}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": -1}]
)
def test_state_of_another_loader(state: dict[str, int]) -> None:
    loader = make_loader()
    with pytest.raises(DataError, match=r"'numbers' at epoch .* an epoch has 5 batches"):
        loader.load_state_dict(state)
    assert loader.state_dict() == {"epoch": 0, "batch": 0}


def test_empty_dataset() -> None:
    with pytest.raises(DataError, match="dataset 'numbers' is empty"):
        SeededLoader(Numbers(0), 1, drop_last=False)


def test_batch_larger_than_the_dataset() -> None:
    with pytest.raises(DataError, match=r"'numbers' has 11 samples.*batch_size <= 11 or drop_last=False"):
        SeededLoader(Numbers(), 12)
    assert len(SeededLoader(Numbers(), 12, drop_last=False)) == 1


@WORKERS
def test_images_of_several_sizes_in_a_batch(num_workers: int) -> None:
    loader = SeededLoader(Numbers(uneven=True), 2, num_workers=num_workers)
    with pytest.raises(DataError, match=r"'numbers' differ in size within a batch.*batch_size=1"):
        next(iter(loader))
    assert len(list(SeededLoader(Numbers(uneven=True), 1))) == 11


@pytest.fixture
def _no_accelerate_state() -> Iterator[None]:
    yield
    PartialState._reset_state()


@pytest.mark.usefixtures("_no_accelerate_state")
def test_accelerate_gives_every_process_its_part_of_every_epoch() -> None:
    shards = [prepare_data_loader(make_loader(), num_processes=2, process_index=rank) for rank in range(2)]
    whole = make_loader()

    for _ in range(2):
        expected = list(whole)[:4]
        parts = [list(shard) for shard in shards]
        assert same([batch for pair in zip(*parts, strict=True) for batch in pair], expected)


@pytest.mark.data
def test_real_batches(data_root: Path) -> None:
    dataset = FolderDataset(data_root / "camvid-320", "val")
    transform = train_transform((128, 128), mean=(0.5,) * 3, std=(0.5,) * 3)
    with_workers = SeededLoader(dataset, 4, transform=transform, num_workers=2)

    assert same(take(with_workers, 3), take(SeededLoader(dataset, 4, transform=transform), 3))


SCRIPT = """
import sys
from dabnn.data import SeededLoader, ToyStreets
loader = SeededLoader(ToyStreets("oldtown", size=(32, 64), length=8), 2, num_workers=2)
if sys.argv[1] == "left early":
    batch = next(iter(loader))
else:
    batches = list(loader)
"""


@pytest.mark.parametrize("way", ["left early", "read to the end"])
def test_a_script_with_workers_ends(way: str) -> None:
    """Workers leave SIGTERM to the main process, but not when that waits for them."""
    subprocess.run([sys.executable, "-c", SCRIPT, way], check=True, timeout=120)
