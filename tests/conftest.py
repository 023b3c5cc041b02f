from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The real datasets are for the tests that ask for them; the others look for their own where a config says.
DATA = os.environ.pop("DABNN_DATA", None)

# A property test may meet a busy machine: its examples have no time limit.
settings.register_profile("dabnn", deadline=None)
settings.load_profile("dabnn")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real datasets: $DABNN_DATA, or ``shared/data`` beside the repository."""
    root = Path(DATA or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"real datasets are not at {root}; point DABNN_DATA to them")
    return root
