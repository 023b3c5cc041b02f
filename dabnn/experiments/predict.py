"""Segment image files with a finished training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PILImage
from torchvision.tv_tensors import Image

import dabnn
from dabnn.data import eval_transform
from dabnn.data.images import read_image
from dabnn.errors import ConfigError, DataError
from dabnn.evaluation import predict_logits
from dabnn.experiments.overlay import Pixels, overlay, with_legend
from dabnn.experiments.saved import SavedRun, load_run


def predict_images(run: Path, images: Sequence[Path], out: Path, dataset: str | None = None) -> list[Path]:
    """Segment images with the branch of one dataset; write each as an overlay with a legend.

    Images are segmented at their own size, one by one; a broken one stops there and earlier pictures stay.

    Args:
        run: Folder of a finished training.
        images: JPEG or PNG files of any size.
        out: Folder of the pictures ``<stem>_overlay.png``; created if absent.
        dataset: Whose branch to use; may be left out if the training had one dataset.

    Returns:
        The written files, in the order of ``images``.

    Raises:
        CheckpointError: If ``run`` holds no finished training, or one of its files is damaged.
        ConfigError: If no dataset is given and the training had several, or it is none of them.
        DataError: If an image cannot be read, or two have the same stem.
    """
    saved = load_run(run)
    name = _choose(dataset, list(saved.datasets), run)
    files = _targets(images, out)
    space = saved.datasets[name]
    for path, file in zip(images, files, strict=True):
        pixels = read_image(path)
        out.mkdir(parents=True, exist_ok=True)
        picture = overlay(pixels, segment(saved, pixels, name), space.palette)
        PILImage.fromarray(with_legend(picture, space.classes, space.palette)).save(file)
    return files


def segment(saved: SavedRun, pixels: Pixels, dataset: str) -> npt.NDArray[np.int64]:
    """Return the class ids (H, W) that a finished training gives an image (H, W, 3) of a dataset."""
    images = saved.config.images
    normalise = eval_transform(mean=images.mean, std=images.std)
    image = normalise({"image": Image(torch.from_numpy(pixels).permute(2, 0, 1))})["image"]
    with torch.inference_mode(), dabnn.use_dataset(saved.model, dataset):
        logits = predict_logits(saved.model, image[None])
    ids: npt.NDArray[np.int64] = logits[0].argmax(0).numpy()
    return ids


def _choose(dataset: str | None, names: list[str], run: Path) -> str:
    if dataset is None and len(names) == 1:
        return names[0]
    if dataset not in names:
        wrong = "" if dataset is None else f", not {dataset!r}"
        raise ConfigError(f"{run} has branches for {names}{wrong}; say which one to use with --dataset")
    return dataset


def _targets(images: Sequence[Path], out: Path) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in images:
        file = out / f"{path.stem}_overlay.png"
        if file in files:
            raise DataError(f"{files[file]} and {path} would both become {file}; use two output folders")
        files[file] = path
    return list(files)
