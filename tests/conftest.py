from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from dabnn.experiments.demo.run import DemoResult

DATA = os.environ.get("DABNN_DATA")

# A property test may meet a busy machine: its examples have no time limit.
settings.register_profile("dabnn", deadline=None)
settings.load_profile("dabnn")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _data_of_the_configs() -> Iterator[None]:
    """The real datasets are for the tests that ask for them; the others look where their config says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DABNN_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real datasets: $DABNN_DATA, or ``shared/data`` beside the repository."""
    root = Path(DATA or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"real datasets are not at {root}; point DABNN_DATA to them")
    return root


DEMO_STEPS = 10


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def tiny_demo(demo_folder: Path) -> DemoResult:
    """The demo with a few steps on eight scenes a split."""
    from dabnn.data import ToyStreets  # slow to import, and few tests need it
    from dabnn.experiments.demo import run as demo

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "ToyStreets", partial(ToyStreets, length=8))
        return demo.run_demo(demo_folder, steps=DEMO_STEPS)


@pytest.fixture(scope="session")
def cdcl_run(tiny_demo: DemoResult, demo_folder: Path) -> Path:
    """Folder of a finished training with three datasets."""
    return demo_folder / f"{DEMO_STEPS}_steps" / "cdcl-seed0"


@pytest.fixture(scope="session")
def single_run(tiny_demo: DemoResult, demo_folder: Path) -> Path:
    """Folder of a finished training with one dataset, oldtown."""
    return demo_folder / f"{DEMO_STEPS}_steps" / "single-seed0" / "oldtown"
