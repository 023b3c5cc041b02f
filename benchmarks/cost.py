"""What being dataset-aware costs: time of a forward, time and memory of a DAT step, time of a switch.

Every figure is a ratio of two things measured in turns in one process, so that a noisy machine disturbs both
alike; the median over the pairs is reported with its quartiles.

Run: python benchmarks/cost.py            (PSPNet-R18, 256x256, batch 8, CPU; about 15 minutes on 2 cores)
Writes: benchmarks/results/cost.csv and cost.json (versions, commit, settings).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from paired import RESULTS, ratios, row, seconds, write
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import dabnn
from dabnn.training import AlternationTrainer
from dabnn.training.batch import Draw

NAMES = ["a", "b", "c"]
CLASSES = 19


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, args.size, args.size)
    target = torch.randint(0, CLASSES, (args.batch, args.size, args.size))
    rows = [
        forward_ratio(images, args.pairs),
        *step_ratios(images, target, args.pairs),
        *memory_ratios(images, target),
        switch_cost(args.pairs),
    ]
    settings = {"size": args.size, "batch": args.batch, "model": "smp.PSPNet(resnet18)"}
    write("cost", rows, settings, args.output)


def forward_ratio(images: Tensor, pairs: int) -> dict[str, object]:
    plain = _network().eval()
    aware = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), dataset_names=NAMES)
    with torch.inference_mode(), dabnn.use_dataset(aware, "b"):
        return row("forward: converted / plain", ratios(lambda: aware(images), lambda: plain(images), pairs))


def step_ratios(images: Tensor, target: Tensor, pairs: int) -> list[dict[str, object]]:
    """A DAT step over 3 datasets against 3 plain forward+backward and one plain optimizer step."""
    plain = _network().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-4, momentum=0.9)

    def reference() -> None:
        optimizer.zero_grad()
        for _ in NAMES:
            F.cross_entropy(plain(images), target).backward()
        optimizer.step()

    rows = []
    for mode in ("per_dataset", "joint", "fused"):
        trainer = _trainer(mode)
        draws = [Draw(name, (images, target)) for name in NAMES]
        found = ratios(
            lambda t=trainer, d=draws: t.train_step(d), reference, pairs if mode == "per_dataset" else 9
        )
        rows.append(row(f"DAT step, backward={mode} / 3 plain forward+backward + 1 step", found))
    return rows


def memory_ratios(images: Tensor, target: Tensor) -> list[dict[str, object]]:
    """Peak of the memory that one step allocates on top of what was there, against one plain step."""
    plain = _network().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-4, momentum=0.9)

    def reference() -> None:
        optimizer.zero_grad()
        F.cross_entropy(plain(images), target).backward()
        optimizer.step()

    base = _peak(reference)
    rows = []
    for mode in ("per_dataset", "joint", "fused"):
        trainer = _trainer(mode)
        peak = _peak(lambda t=trainer: t.train_step([Draw(name, (images, target)) for name in NAMES]))
        rows.append(row(f"peak allocated memory, DAT step backward={mode} / one plain step", [peak / base]))
    return rows


def switch_cost(pairs: int, calls: int = 5000) -> dict[str, object]:
    """Microseconds that the switch adds to one batch norm on a 1x1 input."""
    aware = dabnn.convert_to_dataset_aware(nn.BatchNorm2d(1).eval(), dataset_names=NAMES)
    branch, x = aware.bns[1], torch.randn(1, 1, 1, 1)
    differences = []
    with torch.inference_mode(), dabnn.use_dataset(aware, "b"):
        for _ in range(pairs):
            with_switch, without = (
                seconds(lambda module=m: [module(x) for _ in range(calls)]) for m in (aware, branch)
            )
            differences.append((with_switch - without) / calls * 1e6)
    return row("switch, microseconds a layer", differences)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return smp.PSPNet("resnet18", encoder_weights=None, classes=CLASSES, psp_dropout=0.0)


def _trainer(mode: str) -> AlternationTrainer:
    model = dabnn.convert_to_dataset_aware(_network().train(), dataset_names=NAMES, num_classes=[CLASSES] * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    return AlternationTrainer(model, {name: [] for name in NAMES}, optimizer=optimizer, backward=mode)


def _peak(function: Callable[[], object]) -> int:
    """Peak bytes allocated by torch during a call, after a warm-up that fills the optimizer's state."""
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


if __name__ == "__main__":
    main()
