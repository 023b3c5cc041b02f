"""Table 5: multiplications of the networks for one image, converted or not."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dabnn import convert_to_dataset_aware, use_dataset
from dabnn.experiments.build import plain_model
from dabnn.experiments.comparison import markdown
from dabnn.experiments.paper.tables import load_experiment
from dabnn.experiments.report.figures import cost_plot
from dabnn.experiments.results import environment, write_json
from dabnn.models.registry import architecture
from dabnn.storage.atomic import written_atomically

SIZE = (1024, 2048)
SCALES = (0.5, 0.75, 1.0, 1.25)
"""Sizes whose costs together are those of the paper's rows with several sizes."""
CLASSES = 19
PAPER = {"pspnet_resnet18_os8": (512.8, 1730.7), "pspnet_resnet101_os8": (2299.8, 7762.0)}
"""What the paper states ("GFLOPs"), for one size and for several."""
OTHERS = ("pspnet_lite0_os16", "segformer_b0")


class Cost(NamedTuple):
    """Billions of multiplications (GMAC) of one network for an image of 1024x2048.

    Attributes:
        network: What it is.
        plain: Of the plain network.
        converted: Of the same, converted for three datasets.
        paper: What the paper states ("GFLOPs"), if it does.
    """

    network: str
    plain: float
    converted: float
    paper: float | None


def multiplications(model: nn.Module, size: tuple[int, int] = SIZE) -> float:
    """Return the billions of multiplications of a model on the meta device for one image of a size."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size))
    return float(counter.get_total_flops()) / 2e9  # torch counts a multiplication and an addition as two


def costs() -> Iterator[Cost]:
    """Yield the cost of the networks of the zoo and of the one that the small experiments train."""
    for name, (one, several) in PAPER.items():
        function, _ = architecture(name)
        yield _cost(name, function, one)
        yield _cost(f"{name}, four sizes", function, several, scales=SCALES)
    for name in OTHERS:
        function, convert = architecture(name)
        yield _cost(name, function, **convert)
    entry = load_experiment("three_sets").model
    yield _cost(f"{entry.architecture} of the small experiments", partial(plain_model, entry))


def _cost(
    network: str,
    build: Callable[[int], nn.Module],
    paper: float | None = None,
    scales: Iterable[float] = (1.0,),
    **convert: Any,
) -> Cost:
    sizes = [(round(SIZE[0] * scale), round(SIZE[1] * scale)) for scale in scales]
    model = build(CLASSES).eval().to("meta")
    plain = sum(multiplications(model, size) for size in sizes)
    with torch.device("meta"):
        converted = convert_to_dataset_aware(model, 3, num_classes=[CLASSES] * 3, **convert)
    with use_dataset(converted, 1):
        return Cost(network, plain, sum(multiplications(converted, size) for size in sizes), paper)


def write_costs(out: Path, name: str = "table5") -> Path:
    """Write the costs as ``<name>.csv``, ``.svg`` and ``.md``; return the last."""
    found = list(costs())
    rows = [
        [cost.network, *("" if value is None else f"{value:.1f}" for value in cost[1:])] for cost in found
    ]
    header = ["network", "plain", "converted", "paper"]
    out.mkdir(parents=True, exist_ok=True)
    with written_atomically(out / f"{name}.csv") as temporary, temporary.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows([header, *rows])
    write_json(
        out / f"{name}.json",
        {"environments": [environment()], "size": SIZE, "scales": SCALES, "classes": CLASSES},
    )
    file = out / f"{name}.md"
    title = "Billions of multiplications for one image of 1024x2048"
    cost_plot(out / f"{name}.svg", title, {cost.network: (cost.converted, cost.paper) for cost in found})
    file.write_text(f"# {title}\n\n{markdown(header, rows)}")
    return file
