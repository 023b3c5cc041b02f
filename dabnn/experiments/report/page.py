"""Write a comparison as one HTML file that needs no other file and no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from dabnn.data import SegmentationDataset
from dabnn.deploy.overlay import BLACK
from dabnn.experiments.comparison import OURS, Comparison
from dabnn.experiments.config import Config
from dabnn.experiments.methods import METHODS
from dabnn.experiments.report.figures import COLORS, SMOOTHING, loss_plot, png, read_losses
from dabnn.experiments.report.scenes import SINGLE, Scene, pick_scenes
from dabnn.experiments.run import run_with

SCENES = 3
"""Number of scenes that are shown of each dataset."""


def write_report(
    path: Path,
    config: Config,
    runs: Path,
    comparison: Comparison,
    evaluation: Mapping[str, SegmentationDataset],
    *,
    title: str,
    findings: Sequence[str],
) -> None:
    """Write a report: findings, table, loss curves, and scenes as image, truth, single-dataset and CDCL.

    Args:
        path: The HTML file to write; its folder must exist.
        config: The experiment.
        runs: Folder of its finished trainings; CDCL and the single-dataset networks are among them.
        comparison: The results.
        evaluation: Evaluation split of each dataset.
        title: Heading of the report.
        findings: What the results say, in sentences.
    """
    header, methods, gains = comparison.table()
    seed = comparison.seeds[0]
    scenes = {
        name: pick_scenes(config, seed, runs, name, dataset, SCENES) for name, dataset in evaluation.items()
    }
    page = Template((files("dabnn.experiments.report") / "report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=escape(title),
        what=escape(_what(config, comparison)),
        findings="".join(f"<li>{escape(sentence)}</li>" for sentence in findings),
        head=_line(header, "th"),
        methods="".join(_line(line, "td") for line in methods),
        gains="".join(_line(line, "td") for line in gains),
        table_note=escape(_table_note(comparison)),
        curves=_curves(config, runs, comparison, seed),
        curves_note=f"Networks of seed {seed}; each point is the mean of {SMOOTHING} logged batches.",
        scenes_note=f"Evaluation scenes at even distances, not chosen by result; networks of seed {seed}.",
        scenes="".join(_section(name, evaluation[name], scenes[name]) for name in scenes),
        made=escape(_made(run_with(config, OURS, seed, next(iter(config.datasets)), runs).folder)),
    )
    path.write_text(text, encoding="utf-8")


def _what(config: Config, comparison: Comparison) -> str:
    training, model = config.training, config.model
    methods = _listed([METHODS[method].title for method in comparison.methods])
    return (
        f"A small network ({model.architecture} with encoder {model.encoder}) was trained on "
        f"{_listed(comparison.datasets)} in several ways: {methods}. All make {training.steps} steps with "
        f"{training.batch_size} images of each dataset, by the same recipe ({training.optimizer}, rate "
        f"{training.lr:g}, {training.schedule} decay). Seeds: {', '.join(map(str, comparison.seeds))}."
    )


def _table_note(comparison: Comparison) -> str:
    spread = " ± is the standard deviation over the seeds." if len(comparison.seeds) > 1 else ""
    return (
        "Mean intersection over union on the evaluation scenes at full size, in percent. The lower lines are "
        f"differences in points, paired by seed.{spread}"
    )


def _made(folder: Path) -> str:
    environment = json.loads((folder / "result.json").read_text())["environment"]
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def _curves(config: Config, runs: Path, comparison: Comparison, seed: int) -> str:
    colors = dict(zip(comparison.methods, COLORS, strict=False))
    plots = ""
    for name in comparison.datasets:
        folders = {
            color: run_with(config, method, seed, name, runs).folder for method, color in colors.items()
        }
        lines = {color: read_losses(folder / "metrics.csv", name) for color, folder in folders.items()}
        plots += f'<img src="{loss_plot(name, lines)}" alt="Training loss on {escape(name)}">'
    legend = _legend((METHODS[method].title, color) for method, color in colors.items())
    return f'{legend}<div class="curves">{plots}</div>'


def _section(name: str, dataset: SegmentationDataset, scenes: Sequence[Scene]) -> str:
    captions = ("image", "truth", METHODS[SINGLE].title, METHODS[OURS].title)
    figures = "".join(
        f'<figure><img src="{png(pixels)}" alt="{escape(name)}, {caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for scene in scenes
        for pixels, caption in zip(scene, captions, strict=True)
    )
    colors = zip((*dataset.classes, "not labelled"), (*dataset.palette, BLACK), strict=True)
    legend = _legend((label, f"rgb({red},{green},{blue})") for label, (red, green, blue) in colors)
    return f'<h3>{escape(name)}</h3>{legend}<div class="scenes">{figures}</div>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    items = (f'<li><i style="background:{color}"></i>{escape(label)}</li>' for label, color in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'


def _line(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
