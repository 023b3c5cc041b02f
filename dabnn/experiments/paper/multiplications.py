"""Table 5: multiplications of the networks for one image, converted or not."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dabnn
from dabnn.experiments.comparison import markdown
from dabnn.experiments.results import environment, write_json
from dabnn.files import written_atomically
from dabnn.models import PSPNet

SIZE = (1024, 2048)
CLASSES = 19
PAPER = {"resnet18": 512.8, "resnet101": 2299.8}


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
    """Yield the cost of the paper's networks, and of the one that the small experiments train."""
    for backbone, stride, channels in (
        ("resnet18", 8, 512),
        ("resnet101", 8, 512),
        ("tf_efficientnet_lite0", 16, 128),
    ):
        with torch.device("meta"):
            model = PSPNet(backbone, CLASSES, output_stride=stride, channels=channels).eval()
            plain = multiplications(model)
            converted = dabnn.convert_to_dataset_aware(model, 3, num_classes=[CLASSES] * 3)
        with dabnn.use_dataset(converted, 1):
            aware = multiplications(converted)
        yield Cost(f"PSPNet ({backbone}, output stride {stride})", plain, aware, PAPER.get(backbone))


def write_costs(out: Path, name: str = "table5") -> Path:
    """Write the costs as ``<name>.csv`` and ``<name>.md``; return the latter."""
    rows = [
        [cost.network, *("" if value is None else f"{value:.1f}" for value in cost[1:])] for cost in costs()
    ]
    header = ["network", "plain", "converted", "paper"]
    out.mkdir(parents=True, exist_ok=True)
    with written_atomically(out / f"{name}.csv") as temporary, temporary.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows([header, *rows])
    write_json(out / f"{name}.json", {"environments": [environment()], "size": SIZE, "classes": CLASSES})
    file = out / f"{name}.md"
    title = "Billions of multiplications for one image of 1024x2048"
    file.write_text(f"# {title}\n\n{markdown(header, rows)}")
    return file
