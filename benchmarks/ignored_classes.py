"""Copy datasets so that some classes do not train: in the training labels their pixels are those to ignore.

Everything else in the copy links to the original, also the labels of the other splits.

Run: python benchmarks/ignored_classes.py DATA runs/ignored_data camvid-320=car idd-lite=vehicles
    dabnn train benchmarks/ignored_classes.yaml --method cdcl --seed 1 --data runs/ignored_data
    python benchmarks/zoo.py benchmarks/ignored_classes.yaml runs/ignored/cdcl-seed1 --views 1 --data DATA
Writes: the copy; `zoo.py` writes benchmarks/results/ignored.csv and ignored_classes.csv.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

IGNORED = 255


def main(
    data: Annotated[Path, typer.Argument(help="Folder of the datasets.")],
    out: Annotated[Path, typer.Argument(help="Folder of the copy, a new one.")],
    classes: Annotated[list[str], typer.Argument(help="FOLDER=CLASS, a dataset and the class to ignore.")],
) -> None:
    out.mkdir(parents=True)
    chosen = dict(entry.split("=", 1) for entry in classes)
    for dataset in sorted(path for path in data.resolve().iterdir() if path.is_dir()):
        if dataset.name in chosen:
            ignore(dataset, out / dataset.name, chosen[dataset.name])
        else:
            (out / dataset.name).symlink_to(dataset)


def ignore(dataset: Path, copy: Path, name: str) -> None:
    """Link a dataset, its training labels but copied with one class as pixels to ignore."""
    number = json.loads((dataset / "classes.json").read_text())["classes"].index(name)
    (copy / "labels" / "train").mkdir(parents=True)
    for path in (*dataset.iterdir(), *(dataset / "labels").iterdir()):
        target = copy / path.relative_to(dataset)
        if not target.exists():
            target.symlink_to(path)
    for file in sorted((dataset / "labels" / "train").glob("*.png")):
        label = np.array(Image.open(file))
        label[label == number] = IGNORED
        Image.fromarray(label).save(copy / "labels" / "train" / file.name)


if __name__ == "__main__":
    typer.run(main)
