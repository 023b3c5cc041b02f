from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dabnn.data import ToyStreets
from dabnn.experiments.demo import run as demo
from dabnn.experiments.demo.run import DemoResult, run_demo

STEPS = 10


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def tiny_demo(demo_folder: Path) -> DemoResult:
    """The demo with a few steps on eight scenes a split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "ToyStreets", partial(ToyStreets, length=8))
        return run_demo(demo_folder, steps=STEPS)


@pytest.fixture(scope="session")
def cdcl_run(tiny_demo: DemoResult, demo_folder: Path) -> Path:
    """Folder of a finished training with three datasets."""
    return demo_folder / f"{STEPS}_steps" / "cdcl-seed0"


@pytest.fixture(scope="session")
def single_run(tiny_demo: DemoResult, demo_folder: Path) -> Path:
    """Folder of a finished training with one dataset, oldtown."""
    return demo_folder / f"{STEPS}_steps" / "single-seed0" / "oldtown"
