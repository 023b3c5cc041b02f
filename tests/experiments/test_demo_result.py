from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from dabnn.experiments.comparison import Comparison
from dabnn.experiments.demo import run_demo

SEEDS = (0, 1, 2)


@pytest.mark.slow
def test_cdcl_is_even_with_single_dataset_networks_and_far_above_shared_norms(tmp_path: Path) -> None:
    comparison = Comparison(run_demo(tmp_path, seeds=SEEDS).rows)

    over_single, over_shared = comparison.gain("single"), comparison.gain("shared_bn")

    assert len(over_single) == len(over_shared) == len(SEEDS)
    assert abs(fmean(over_single)) < 1, over_single
    assert min(over_shared) > 5, over_shared
