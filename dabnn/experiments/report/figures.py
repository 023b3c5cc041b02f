"""Pictures of a comparison: loss curves as SVG, pixels as PNG inside a web page."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from dabnn.deploy.overlay import Pixels
from dabnn.experiments.comparison import Comparison

Losses = tuple[list[int], list[float]]
"""Steps, and a training loss at each."""

COLORS = ("#0b5cad", "#d1600a", "#6f7782", "#2c8a4b")
"""Colour of each method's line."""
SMOOTHING = 5
"""Each point of a curve is the mean of this many logged losses."""
SVG_STYLE = {"svg.hashsalt": "dabnn", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}


def read_losses(file: Path, dataset: str) -> Losses:
    """Return the steps and training losses of one dataset from a ``metrics.csv``."""
    with file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["dataset"] == dataset]
    return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]


def loss_plot(title: str, lines: Mapping[str, Losses]) -> str:
    """Draw the training losses of one dataset over steps, as an SVG inside a ``data:`` address.

    Args:
        title: Heading of the plot.
        lines: Steps and losses by colour of the line.
    """
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(3.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for color, (steps, losses) in lines.items():
            axes.plot(steps, _smooth(losses), color=color, linewidth=1.5)
        axes.set(title=title, xlabel="step", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _data_uri(file, "image/svg+xml")


def bar_plot(file: Path, title: str, comparisons: Sequence[Comparison]) -> None:
    """Draw mIoU by dataset as an SVG, a bar for each method with the standard deviation over the seeds.

    Args:
        file: The SVG to write.
        title: Heading of the plot.
        comparisons: On the same datasets; their methods stand side by side.
    """
    datasets = comparisons[0].datasets
    bars = [(part, method) for part in comparisons for method in part.methods]
    width = 0.8 / len(bars)
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(2.2 + 0.45 * len(bars) * len(datasets), 3.6), layout="constrained")
        axes = figure.subplots()
        for number, (part, method) in enumerate(bars):
            values = [part.miou(method, name) for name in datasets]
            axes.bar(
                [place + (number + 0.5) * width - 0.4 for place in range(len(datasets))],
                [fmean(seeds) for seeds in values],
                width,
                yerr=[stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in values],
                label=part.titles[method],
            )
        axes.set(title=title, ylabel="mIoU %", xticks=range(len(datasets)), xticklabels=datasets)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None})


def cost_plot(file: Path, title: str, costs: Mapping[str, tuple[float, float | None]]) -> None:
    """Draw costs as an SVG, a bar for each network beside the paper's.

    Args:
        file: The SVG to write.
        title: Heading of the plot.
        costs: Billions of multiplications by network: ours, and the paper's if it states them.
    """
    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.45 * len(costs)), layout="constrained")
        axes = figure.subplots()
        for number, label in enumerate(("here", "paper")):
            values = [cost[number] or 0.0 for cost in costs.values()]
            axes.barh([place + 0.4 * number - 0.2 for place in range(len(costs))], values, 0.4, label=label)
        figure.suptitle(title)
        axes.set(xlabel="GMAC", xscale="log", yticks=range(len(costs)), yticklabels=list(costs))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None})


def png(pixels: Pixels) -> str:
    """Return RGB pixels (H, W, 3) as a PNG inside a ``data:`` address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return _data_uri(file, "image/png")


def _data_uri(file: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _smooth(losses: Sequence[float]) -> list[float]:
    """Return the mean of each value and those before it in its window, which is shorter at the start."""
    windows = [losses[max(0, end - SMOOTHING) : end] for end in range(1, len(losses) + 1)]
    return [fmean(window) for window in windows]
