"""Why does recalibration lower the mIoU on a dataset that was not trained on? Table 7, taken apart.

The branch of Cityscapes of single-dataset and CDCL networks is measured on its own validation images and on
CamVid's test images, with statistics that come from elsewhere:

- none: those of its training.
- own: of the images that are measured on, in random batches, as `dabnn evaluate --recalibrate` takes them.
- own_in_order: likewise, but each batch holds neighbouring images of a video.
- own_lower: likewise in random batches, of the lower two thirds of each image: without most of the sky.
- train: of the training images of the same dataset, in random batches.

Run: python benchmarks/recalibration.py RUNS --data DATA
    (RUNS: the folder same_labels of `dabnn reproduce table3`)
Writes: benchmarks/results/recalibration.csv: mIoU and IoU by class in percent, and as ``pixels`` the share of
    each class in the labels; recalibration.json (versions, commit).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import dabnn
from dabnn.data import SegmentationDataset, load_map, load_space, open_dataset
from dabnn.data.labels.derived import RelabelledDataset
from dabnn.evaluation import SegmentationMetric, SegmentationResult, evaluate_model
from dabnn.experiments.build import build_eval_loader
from dabnn.experiments.results import environment
from dabnn.experiments.saved import SavedRun, load_run
from dabnn.experiments.whole_images import same_size_batches

RESULTS = Path(__file__).parent / "results"
BRANCH = "cityscapes"
NETWORKS = {"single": (BRANCH,), "cdcl": (BRANCH, "idd")}
MEASURED = {"cityscapes": ("cityscapes-256", "val"), "camvid": ("camvid-320", "test")}
STATISTICS = ("none", "own", "own_in_order", "own_lower", "train")


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of the trainings.")],
    data: Annotated[Path, typer.Option(help="Folder of the datasets.")],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0, 1, 2],  # noqa: B006 (typer)
) -> None:
    classes = load_space("idd_lite").classes
    with (RESULTS / "recalibration.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("network", "seed", "measured_on", "statistics", "mIoU", *classes))
        for number in seed:
            for method, trained_on in NETWORKS.items():
                folder = runs / f"{method}-seed{number}"
                saved = load_run(folder if len(trained_on) > 1 else folder / BRANCH)
                for name, (place, split) in MEASURED.items():
                    images = in_seven_classes(name, data / place, split)
                    train = in_seven_classes(name, data / place, "train")
                    for statistics in STATISTICS:
                        result = measure(saved, images, train, statistics)
                        values = [f"{value:.2f}" for value in (result.miou, *result.iou.values())]
                        writer.writerow((method, number, name, statistics, *values))
                        file.flush()
        for name, (place, split) in MEASURED.items():
            for part in ("own", "own_lower"):
                shares = class_shares(in_seven_classes(name, data / place, split), part)
                writer.writerow(("pixels", "", name, part, "", *(f"{share:.2f}" for share in shares)))
    (RESULTS / "recalibration.json").write_text(json.dumps(environment(), indent=1) + "\n")


def in_seven_classes(space: str, root: Path, split: str) -> SegmentationDataset:
    dataset = open_dataset("folder", root, split)
    return RelabelledDataset(dataset, load_map(space, "idd_lite"), load_space("idd_lite"))


def measure(
    saved: SavedRun, images: SegmentationDataset, train: SegmentationDataset, statistics: str
) -> SegmentationResult:
    """Measure the branch on images, with statistics from elsewhere."""
    model = dabnn.extract_dataset(saved.model, BRANCH)
    if statistics != "none":
        recalibrate(model, saved, train if statistics == "train" else images, statistics)
    metric = SegmentationMetric(images.classes, images.ignore_index)
    return evaluate_model(model, build_eval_loader(saved.config, images), metric, torch.device("cpu"))


def recalibrate(model: nn.Module, saved: SavedRun, images: SegmentationDataset, statistics: str) -> None:
    loader = build_eval_loader(saved.config, images, shuffle=statistics != "own_in_order")
    seen = ({"image": below(batch["image"], statistics)} for batch in loader)
    dabnn.recalibrate_batch_norm(model, same_size_batches(seen, saved.config.training.batch_size))


def below(image: Tensor, statistics: str) -> Tensor:
    """Return the part of an image (..., H, W) that is looked at."""
    return image[..., image.shape[-2] // 3 :, :] if statistics == "own_lower" else image


def class_shares(dataset: SegmentationDataset, statistics: str) -> list[float]:
    """Return the share of each class in the labels of what is looked at, in percent."""
    counts = sum(
        torch.bincount(below(sample["mask"], statistics).flatten().long(), minlength=256)[
            : len(dataset.classes)
        ]
        for sample in (dataset[k] for k in range(len(dataset)))
    )
    return (100 * counts / counts.sum()).tolist()


if __name__ == "__main__":
    typer.run(main)
