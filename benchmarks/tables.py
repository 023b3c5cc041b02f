"""Write the results tables of README and docs from the committed CSV files.

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results -->`` and is made from
``benchmarks/results/NAME.csv``; a test fails when the two differ.

Run: python benchmarks/tables.py
"""

from __future__ import annotations

import csv
import re
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from dabnn.experiments.comparison import Comparison, markdown
from dabnn.experiments.methods import get_method
from dabnn.experiments.paper import beside_paper, load_experiment, load_tables
from dabnn.experiments.results import Row

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LARGE = ("truck", "bus", "train")
PARTS = (*LARGE, "mean of the other 16", "cityscapes")
BLOCK = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def main() -> None:
    for page in PAGES:
        page.write_text(fill(page.read_text()))


def fill(text: str) -> str:
    """Return a page with every table made anew."""
    return BLOCK.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def table(name: str) -> str:
    """Return the Markdown table of one CSV file: measurements as they are, trainings compared over seeds."""
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    if name == "guess":
        records = [record for record in records if record["split"] == "evaluation"]
    if name == "new_city":
        return new_city(records)
    if name == "recipe":
        return recipe(records)
    if {"network", "class"} <= records[0].keys():
        return large_vehicles(records)
    if name == "held_out":
        return held_out(records)
    if "miou" not in records[0]:
        return markdown(list(records[0]), [list(record.values()) for record in records])
    rows = [
        Row(r["method"], r["dataset"], int(r["seed"]), int(r["steps"]), float(r["miou"])) for r in records
    ]
    paper = load_tables().get(name)
    if paper is not None:
        return beside_paper(paper, load_experiment(paper.experiment), rows)
    header, methods, gains = Comparison(tuple(rows)).table()
    return markdown(header, [*methods, *gains])


def new_city(records: list[dict[str, str]]) -> str:
    """Return the table of `new_city.py`: mean and standard deviation over the seeds."""
    datasets = list(dict.fromkeys(record["dataset"] for record in records))
    ways = list(dict.fromkeys((record["method"], record["lr"]) for record in records))
    lines = []
    for way, lr in ways:
        cells = []
        for dataset in datasets:
            values = [float(r["miou"]) for r in records if (r["method"], r["dataset"]) == (way, dataset)]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.1f}{spread}" if values else "")
        lines.append([way.replace("_", " "), lr if float(lr) else "", *cells])
    return markdown(["mIoU %", "learning rate", *datasets], lines)


def recipe(records: list[dict[str, str]]) -> str:
    """Return the table of `recipe.py`: means over seeds, and what each recipe gains over the first."""
    names, methods, datasets = (
        list(dict.fromkeys(record[key] for record in records)) for key in ("recipe", "method", "dataset")
    )
    seeds: dict[tuple[str, str, str], list[float]] = {}
    for r in records:
        seeds.setdefault((r["recipe"], r["method"], r["dataset"]), []).append(float(r["miou"]))
    values = {key: [fmean(seeds[*key, dataset]) for dataset in datasets] for key in product(names, methods)}
    first = names[0]
    lines = []
    for name in names:
        cells = []
        for method in methods:
            of = values[name, method]
            gain = fmean(of) - fmean(values[first, method])
            cells += [" / ".join(f"{value:.1f}" for value in of), "" if name == first else f"{gain:+.1f}"]
        differences = [a - b for a, b in zip(values[name, "cdcl"], values[name, "single"], strict=True)]
        lines.append([name, *cells, " / ".join(f"{value:+.1f}" for value in differences)])
    header = [cell for method in methods for cell in (get_method(method).title, "gain")]
    return markdown([f"mIoU % on {' / '.join(datasets)}", *header, "difference"], lines)


def large_vehicles(records: list[dict[str, str]]) -> str:
    """Return the IoU of networks on the large vehicles of Cityscapes, and on its other classes."""
    networks: dict[str, dict[str, float]] = {}
    for r in records:
        if (r["dataset"], r["views"]) == ("cityscapes", "1"):  # in either precision
            networks.setdefault(r["network"], {})[r["class"]] = float(r["iou"])
    return markdown(["IoU %", *PARTS], [[network, *parts(of)] for network, of in networks.items()])


def held_out(records: list[dict[str, str]]) -> str:
    """Return the table of `held_out.py`: the same parts of Cityscapes, and the mIoU of the other datasets."""
    runs: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for r in records:
        run = runs.setdefault((r["config"], r["method"], r["seed"]), {})
        run.setdefault(r["dataset"], {})[r["class"]] = float(r["iou"])
    others = ("camvid", "idd")
    lines = [
        [
            f"{get_method(method).title}, {config.replace('_', ' ')}",
            seed,
            *parts(run["cityscapes"]),
            *(f"{fmean(run[name].values()):.1f}" if name in run else "" for name in others),
        ]
        for (config, method, seed), run in runs.items()
    ]
    return markdown(["IoU %", "seed", *PARTS, *others], lines)


def parts(iou: dict[str, float]) -> list[str]:
    """Return the large vehicles of Cityscapes, the mean of its other classes and that of all."""
    others = [value for name, value in iou.items() if name not in LARGE]
    values = [*(iou[name] for name in LARGE), fmean(others), fmean(iou.values())]
    return [f"{value:.1f}" for value in values]


if __name__ == "__main__":
    main()
