"""Evaluation scenes side by side: image, truth, and what the trained networks say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import nn

from dabnn.data import SegmentationDataset
from dabnn.deploy.overlay import Pixels, colorize
from dabnn.deploy.predict import segment
from dabnn.experiments.comparison import OURS
from dabnn.experiments.config import Config
from dabnn.experiments.run import run_with
from dabnn.experiments.saved import load_model

SINGLE = "single"


class Scene(NamedTuple):
    """One evaluation image with its segmentations, each as RGB pixels (H, W, 3)."""

    image: Pixels
    truth: Pixels
    single: Pixels
    ours: Pixels


def pick_scenes(
    config: Config, seed: int, out: Path, name: str, dataset: SegmentationDataset, count: int
) -> list[Scene]:
    """Return scenes at even distances in a dataset, segmented by its own network and by CDCL.

    Args:
        config: The experiment.
        seed: Whose trainings to use.
        out: Folder of the experiment's finished runs.
        name: The dataset's name in the experiment.
        dataset: Its evaluation split.
        count: Number of scenes; fewer if the dataset has fewer.
    """
    single, ours = (load_model(run_with(config, method, seed, name, out).folder) for method in (SINGLE, OURS))
    step = max(1, len(dataset) // count)
    indices = range(step // 2, len(dataset), step)[:count]
    return [_scene(dataset, index, name, (single, ours)) for index in indices]


def write_picture(
    path: Path, config: Config, seed: int, out: Path, evaluation: Mapping[str, SegmentationDataset]
) -> None:
    """Write a PNG with a line per dataset: an evaluation image, its truth and what CDCL says."""
    scenes = [pick_scenes(config, seed, out, name, dataset, 1)[0] for name, dataset in evaluation.items()]
    Image.fromarray(grid([[scene.image, scene.truth, scene.ours] for scene in scenes], zoom=3)).save(path)


def grid(rows: list[list[Pixels]], *, zoom: int = 1) -> Pixels:
    """Lay pictures of one size out in rows and columns on white, each enlarged ``zoom`` times."""
    gap = 6
    height, width = (zoom * side for side in rows[0][0].shape[:2])
    shape = (len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3)
    canvas = np.full(shape, 255, dtype=np.uint8)
    for top, row in zip(range(0, shape[0], height + gap), rows, strict=True):
        for left, picture in zip(range(0, shape[1], width + gap), row, strict=True):
            canvas[top : top + height, left : left + width] = picture.repeat(zoom, 0).repeat(zoom, 1)
    return canvas


def _scene(
    dataset: SegmentationDataset, index: int, name: str, networks: tuple[nn.Module, nn.Module]
) -> Scene:
    sample = dataset[index]
    image: Pixels = sample["image"].permute(1, 2, 0).numpy()
    ids = [sample["mask"].numpy(), *(segment(network, image, name) for network in networks)]
    return Scene(image, *(colorize(picture, dataset.palette) for picture in ids))
