"""What helps training on a CPU: the environment of the process, and `dabnn.training.FastDilation`.

Two processes make DAT steps in turns, one with the environment variables and one without: the allocator of
glibc, and how threads wait. Then one process with and without the context, at two output strides.

Run: python benchmarks/cpu.py            (the network of the three cities; about 3 minutes on 2 cores)
Writes: benchmarks/results/cpu.csv and cpu.json (versions, commit, settings).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import patch

import segmentation_models_pytorch as smp
import torch
from paired import RESULTS, ratios, row, write

import dabnn
from dabnn.training import FastDilation
from dabnn.training.batch import Draw

NAMES, CLASSES, CROP, BATCH = ["a", "b", "c"], 19, 128, 8
VARIABLES = {
    "memory is kept": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "8589934592",
        "MALLOC_TOP_PAD_": "268435456",
    },
    "threads wait passively": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for title, variables in VARIABLES.items():
        with stepping(variables) as step, stepping({}) as usual:
            rows.append(row(f"DAT step: {title} / as it is", ratios(step, usual, args.pairs)))
    for stride in (16, 8):
        usual = make_step(stride)
        rows.append(
            row(f"DAT step: fast dilation / usual, stride {stride}", ratios(fast(usual), usual, args.pairs))
        )
    settings = {"crop": CROP, "batch": BATCH, "variables": VARIABLES}
    write("cpu", rows, settings, args.output)


@contextmanager
def stepping(variables: Mapping[str, str]) -> Iterator[Callable[[], object]]:
    """Give a function that makes a step in a process of its own, started with these variables."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there,))
    with patch.dict(os.environ, variables):
        process.start()
    try:
        yield lambda: (here.send(True), here.recv())
    finally:
        here.send(False)
        process.join()


def serve(connection: Connection) -> None:
    """Make a step whenever asked."""
    step = make_step()
    while connection.recv():
        step()
        connection.send(None)


def fast(step: Callable[[], object]) -> Callable[[], object]:
    """Return a step inside the context."""

    def inside() -> object:
        with FastDilation():
            return step()

    return inside


def make_step(output_stride: int = 16) -> Callable[[], object]:
    """Return a function that makes a DAT step of the network of the three cities."""
    torch.manual_seed(0)
    plain = smp.PSPNet(
        "tu-tf_efficientnet_lite0",
        encoder_weights=None,
        classes=CLASSES,
        encoder_depth=5,
        output_stride=output_stride,
        psp_out_channels=128,
        upsampling=output_stride,
    )
    model = dabnn.convert_to_dataset_aware(plain.train(), dataset_names=NAMES)
    trainer = dabnn.AlternationTrainer(model, {name: [] for name in NAMES}, channels_last=True)
    images = torch.randn(BATCH, 3, CROP, CROP).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, CLASSES, (BATCH, CROP, CROP))
    draws = [Draw(name, (images, target)) for name in NAMES]
    return lambda: trainer.train_step(draws)


if __name__ == "__main__":
    main()
