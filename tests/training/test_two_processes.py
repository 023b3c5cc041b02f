"""Training in two processes (gloo): the average gradient, one exchange a step, errors in all processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from small_runs import NAMES, Blobs, distance, gradient, seeded_loaders, small_model, step_once
from two_processes import own_draws

from dabnn.data import SeededLoader
from dabnn.evaluation import SegmentationMetric, evaluate_model
from dabnn.selection import use_dataset

pytestmark = pytest.mark.ddp
SCRIPT = Path(two_processes.__file__)


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
DEFAULTS = ("--mixed_precision", "no", "--dynamo_backend", "no")  # or Accelerate prints what it assumes


def launch(*arguments: str, launcher: Sequence[str] = TORCHRUN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes saw, see `two_processes`."""
    folder = tmp_path_factory.mktemp("two_processes")
    done = launch(str(SCRIPT), str(folder))
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def singles() -> list[dict[str, torch.Tensor]]:
    """The gradients that one process alone has for the batches of each."""
    return [gradient(step_once(small_model(), own_draws(rank))[0]) for rank in (0, 1)]


def average(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}


@pytest.mark.parametrize("backward", ["per_dataset", "joint", "fused"])
def test_d02_gradients_are_the_average_of_the_single_runs_for_every_branch(
    backward: str, reports: list[dict[str, Any]], singles: list[dict[str, torch.Tensor]]
) -> None:
    for report in reports:
        actual = report["gradients"][backward]["gradient"]
        assert distance(actual, average(singles)) < 1e-6
        for key, expected in average(singles).items():  # no small branch hides in the sum
            torch.testing.assert_close(actual[key], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("backward", ["per_dataset", "joint", "fused"])
def test_d01_buffers_are_those_of_the_process_alone_after_several_forwards(
    backward: str, reports: list[dict[str, Any]]
) -> None:
    for rank, report in enumerate(reports):
        alone, _ = step_once(small_model(), own_draws(rank))
        for name, expected in alone.named_buffers():
            torch.testing.assert_close(report["gradients"][backward]["buffers"][name], expected)


@pytest.mark.parametrize("case", ["per_dataset", "joint", "fused", "dataset", "clip"])
def test_weights_are_equal_in_all_processes(case: str, reports: list[dict[str, Any]]) -> None:
    first, second = (report["gradients"][case]["weights"] for report in reports)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("backward", ["per_dataset", "joint", "fused"])
def test_each_gradient_element_is_exchanged_once_a_step(backward: str, reports: list[dict[str, Any]]) -> None:
    parameters = sum(p.numel() for p in small_model().parameters())
    assert [report["gradients"][backward]["sent"] for report in reports] == [parameters] * 2


def test_losses_are_the_mean_over_the_processes(reports: list[dict[str, Any]]) -> None:
    alone = [step_once(small_model(), own_draws(rank))[1] for rank in (0, 1)]
    expected = {name: (alone[0][name] + alone[1][name]) / 2 for name in NAMES}
    for report in reports:
        assert report["gradients"]["per_dataset"]["losses"] == pytest.approx(expected, rel=1e-5)


def test_a_dataset_absent_in_one_process_counts_as_zero_there(
    reports: list[dict[str, Any]], singles: list[dict[str, torch.Tensor]]
) -> None:
    for report in reports:
        actual = report["absent"]["gradient"]
        assert report["absent"]["losses"].keys() == {"a", "b"}
        assert not any(key.startswith("classifier.heads.2") or ".bns.2." in key for key in actual)
        head = "classifier.heads.1.weight"
        torch.testing.assert_close(actual[head], singles[0][head] / 2)


def test_d08_buffers_and_weights_are_equal_in_all_processes(reports: list[dict[str, Any]]) -> None:
    first, second = (report["runs"]["whole"] for report in reports)
    for kind in ("state", "ema"):
        for key, value in first[kind].items():
            assert torch.equal(value, second[kind][key]), key
    assert first["losses"] == second["losses"]


def test_a_stopped_run_resumes_to_the_same_end(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        whole, resumed = report["runs"]["whole"], report["runs"]["resumed"]
        assert resumed["losses"] == whole["losses"][4:]  # the other process alone had asked to stop
        for kind in ("state", "ema"):
            assert all(torch.equal(value, resumed[kind][key]) for key, value in whole[kind].items())


def test_logs_are_written_by_the_main_process_only(reports: list[dict[str, Any]]) -> None:
    assert reports[0]["runs"]["whole"]["callbacks"] == ["CSVLogger", "Gather", "StopAt"]
    assert reports[1]["runs"]["whole"]["callbacks"] == ["Gather", "StopAt"]


def test_sharded_evaluation_is_exactly_that_of_one_process(reports: list[dict[str, Any]]) -> None:
    model = small_model(("a", "b"), (2, 2))
    model.load_state_dict(reports[0]["runs"]["whole"]["ema"])
    for name, length in (("a", 7), ("b", 1)):
        loader = SeededLoader(Blobs(name, length), 2, shuffle=False, drop_last=False)
        with use_dataset(model, name):
            alone = evaluate_model(model, loader, SegmentationMetric(("dark", "bright")), "cpu")
        for report in reports:
            assert torch.equal(report["runs"]["whole"]["confusion"][name], alone.confusion)


def test_torch_loaders_are_divided(reports: list[dict[str, Any]]) -> None:
    first, second = (report["loaders"] for report in reports)
    for ours, theirs in zip(first["epochs"], second["epochs"], strict=True):
        assert set(ours) | set(theirs) == set(range(10))
        assert len(ours) == len(theirs) == 6  # two of the ten are repeated so that both have three batches
    assert first["epochs"][0] != first["epochs"][1]
    assert sorted(first["evaluation"] + second["evaluation"]) == list(range(10))


def test_other_iterables_are_taken_as_divided_with_a_warning(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        loader, (warning,) = report["loaders"]["undivided"]
        assert loader == [1, 2]
        assert "dataset 'b'" in warning
        assert "only its part" in warning
        assert report["loaders"]["warned at"] == [SCRIPT.name]


@pytest.mark.parametrize(
    ("case", "everywhere"),
    [
        (
            "missing dataset",
            r"ConfigError: .*datasets.* process 0: \['a', 'b', 'c'\]; process 1: \['a', 'b'\]",
        ),
        ("steps", "ConfigError: .*number of steps.* process 0: 2; process 1: 3"),
        ("nan", "NonFiniteLossError: the loss of dataset 'a' is nan in step 1"),
        ("mixed", "ConfigError: .*update='alternation'"),
    ],
)
def test_errors_are_raised_in_all_processes(
    case: str, everywhere: str, reports: list[dict[str, Any]]
) -> None:
    for report in reports:
        assert re.match(everywhere, report["refusals"][case], re.DOTALL), report["refusals"][case]


@pytest.mark.parametrize(
    ("case", "failing", "reason"),
    [
        ("empty loader", 1, "DataError: the loader of dataset 'b' has no more batches"),
        ("broken loader", 1, "DataError: image 7 is truncated"),
        ("bad batch", 1, "DataError: in step 1, dataset 'c': a batch needs the key 'image'"),
        ("disk", 0, "CheckpointError: could not save"),
    ],
)
def test_an_error_of_one_process_ends_the_others_with_its_reason(
    case: str, failing: int, reason: str, reports: list[dict[str, Any]]
) -> None:
    assert reports[failing]["refusals"][case].startswith(reason)
    other = reports[1 - failing]["refusals"][case]
    assert other.startswith(f"ProcessError: another process failed; process {failing}: {reason}")


@pytest.mark.parametrize("backward", ["per_dataset", "joint", "fused"])
def test_a_step_that_fails_in_one_process_is_made_in_none_and_the_next_one_is_whole(
    backward: str, reports: list[dict[str, Any]], singles: list[dict[str, torch.Tensor]]
) -> None:
    for rank, report in enumerate(reports):
        seen = report["after failures"][backward]
        bad, nan = seen["errors"]
        assert bad.startswith("DataError" if rank == 1 else "ProcessError: another process failed; process 1")
        assert "dataset 'c'" in bad
        assert nan.startswith("NonFiniteLossError: the loss of dataset 'c' is nan in step 1")
        assert seen["unmoved"]
        assert distance(seen["gradient"], average(singles)) < 1e-6


def test_norms_that_wait_for_all_processes_are_not_entered_when_one_cannot_read(
    reports: list[dict[str, Any]],
) -> None:
    assert [report["forwards before a failed read"] for report in reports] == [0, 0]


def test_the_processes_agree_twice_a_step(reports: list[dict[str, Any]]) -> None:
    """Whether to stop, and whether all have come through; once more at the end of `fit`, for SIGTERM."""
    for report in reports:
        assert report["agreements"] == {"first": 2 * 2 + 1, "second": 2 * 2 + 1}


def test_pooled_statistics_are_those_of_all_values(reports: list[dict[str, Any]]) -> None:
    means = [report["pooled"]["mean"] for report in reports]
    variances = [report["pooled"]["var"] for report in reports]
    mean = (means[0] + means[1]) / 2
    within, between = (variances[0] + variances[1]) / 2, (means[0] - means[1]).square() / 4
    for report in reports:
        torch.testing.assert_close(report["pooled"]["pooled mean"], mean)
        torch.testing.assert_close(report["pooled"]["pooled var"], within + between)


def test_slow_processes_are_waited_for_at_least_ten_minutes(reports: list[dict[str, Any]]) -> None:
    assert all(report["timeout"] >= 600 for report in reports)


def test_a_dying_process_ends_the_group_with_the_reason() -> None:
    start = time.monotonic()
    done = launch(str(SCRIPT), "", "die")
    assert done.returncode != 0
    assert "rank      : 1" in done.stderr
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert time.monotonic() - start < 240


@pytest.mark.parametrize("launcher", [TORCHRUN, (*ACCELERATE, *DEFAULTS)], ids=["torchrun", "accelerate"])
def test_the_example_runs_in_two_processes(
    launcher: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Path(__file__).parents[2] / "examples" / "by_feature" / "several_processes.py"
    monkeypatch.chdir(tmp_path)
    done = launch(str(example), "--steps", "1", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mIoU") == 3  # once for each dataset


def test_parts_of_a_seeded_loader_make_up_the_batches_of_one_process() -> None:
    for loader in seeded_loaders().values():
        whole = SeededLoader(loader.source, 4, transform=loader.dataset.transform)
        parts = [loader.shard(rank, 2) for rank in (0, 1)]
        for _ in range(2):
            for batch, *dealt in zip(whole, *parts, strict=True):
                images = torch.stack([dealt[i % 2]["image"][i // 2] for i in range(4)])
                assert torch.equal(images, batch["image"])
