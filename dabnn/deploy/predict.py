"""Segment image files with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PILImage
from torch import nn
from torch.nn import functional as F

from dabnn.branches.guess import guess_dataset
from dabnn.data import load_space
from dabnn.data.images import read_image
from dabnn.deploy.overlay import Pixels, overlay, some_colors, with_legend
from dabnn.deploy.preprocessing import preprocess, scale_to_height
from dabnn.errors import ConfigError, DataError, NoBatchNormFoundError
from dabnn.evaluation.inference import Predict, predict_logits
from dabnn.models.stored.folder import info_of
from dabnn.selection import use_dataset
from dabnn.storage.atomic import written_atomically

Ids = Literal["train", "label"]


def predict_images(
    model: nn.Module,
    images: Sequence[Path],
    out: Path,
    dataset: str | None = None,
    *,
    ids: Ids | None = None,
    full_size: bool = False,
    predict: Predict = predict_logits,
) -> dict[Path, str]:
    """Segment images with the branch of one dataset; write each as an overlay with a legend, or as ids.

    Images are segmented one by one; a broken one stops there and earlier pictures stay. The pictures have
    the size of the images.

    Args:
        model: A model of `dabnn.from_pretrained`, on the device to work on.
        images: JPEG or PNG files of any size.
        out: Folder of the pictures ``<stem>_overlay.png`` or ``<stem>.png``; created if absent.
        dataset: Whose branch to use; left out, for each image that of the dataset it is most like
            (`dabnn.guess_dataset`). Ids, whose meaning depends on it, need one if there are several.
        ids: Write grey values: the class ids ("train"), or what stands for them in label files of Cityscapes
            and KITTI ("label"), for the classes of Cityscapes only. Their servers want label ids, that of
            BDD100K train ids.
        full_size: Segment each image at its own size, not at the height of the images that the network was
            trained on (`dabnn.preprocess`).
        predict: How logits come from images, see `dabnn.evaluation.evaluate_model`.

    Returns:
        The dataset whose branch was used by written file, in the order of ``images``.

    Raises:
        ConfigError: If nothing is known of the model, or the dataset is none of its own, or must be given, or
            has no label ids.
        DataError: If an image cannot be read, two have the same stem, or a picture would replace an image.
        CheckpointError: If a picture cannot be written; an older one of that name is untouched.
    """
    datasets = info_of(model).datasets
    known = dataset is not None or ids is not None or len(datasets) == 1
    chosen = choose_branch(dataset, list(datasets), "--dataset") if known else None
    values = _values(datasets[chosen].classes, ids) if chosen is not None and ids is not None else None
    files = _targets(images, out, "_overlay" if ids is None else "")
    used = {}
    for path, file in zip(images, files, strict=True):
        pixels = read_image(path)
        out.mkdir(parents=True, exist_ok=True)
        used[file] = name = chosen or _most_like(model, pixels, full_size=full_size)
        space = datasets[name]
        segmented = segment(model, pixels, name, predict, full_size=full_size)
        if values is not None:
            picture = values[segmented]
        else:
            palette = space.palette or some_colors(len(space.classes))
            picture = with_legend(overlay(pixels, segmented, palette), space.classes, palette)
        with written_atomically(file) as temporary:
            PILImage.fromarray(picture).save(temporary, format="PNG")
    return used


def choose_branch(branch: str | None, names: Sequence[str], option: str) -> str:
    """Return the branch that a user means.

    Args:
        branch: What the user says, if anything.
        names: The datasets of the model.
        option: How to say it on the command line.

    Raises:
        ConfigError: If nothing was said and there are several, or it is none of them.
    """
    if branch is None and len(names) == 1:
        return names[0]
    if branch is None or branch not in names:
        wrong = "" if branch is None else f", not {branch!r}"
        raise ConfigError(
            f"the model has branches for {list(names)}{wrong}; say which one to use with {option}"
        )
    return branch


def _most_like(model: nn.Module, pixels: Pixels, *, full_size: bool) -> str:
    """Return the dataset of a model that an image (H, W, 3) is most like.

    All branches see it at one size, the mean of the heights that they were trained at: the simplest choice,
    which was not measured against others.
    """
    images = preprocess(model, pixels)
    heights = [dataset.size[0] for dataset in info_of(model).datasets.values() if dataset.size is not None]
    if heights and not full_size:
        images = scale_to_height(images, round(fmean(heights)))
    try:
        guess = guess_dataset(model, images)
    except NoBatchNormFoundError as error:
        raise ConfigError(f"say which dataset an image is like with --dataset: {error}") from error
    return str(guess.together)


def segment(
    model: nn.Module,
    pixels: Pixels,
    dataset: str,
    predict: Predict = predict_logits,
    *,
    full_size: bool = False,
) -> npt.NDArray[np.int64]:
    """Return the class ids (H, W) that a model gives an image (H, W, 3) of a dataset.

    Args:
        model: The model.
        pixels: The image.
        dataset: Whose branch to use.
        predict: See `predict_images`.
        full_size: See `predict_images`.
    """
    images = preprocess(model, pixels, dataset=None if full_size else dataset)
    with torch.inference_mode(), use_dataset(model, dataset):
        logits = predict(model, images)
    if logits.shape[-2:] != pixels.shape[:2]:
        logits = F.interpolate(logits, pixels.shape[:2], mode="bilinear")
    ids: npt.NDArray[np.int64] = logits[0].argmax(0).cpu().numpy()
    return ids


def _values(classes: Sequence[str], ids: Ids) -> Pixels:
    """Return the grey value of each class id (C,).

    Raises:
        ConfigError: If label ids are asked for, and the classes are not those of Cityscapes.
    """
    if ids == "train":
        return np.arange(len(classes), dtype=np.uint8)
    space = load_space("cityscapes_label_ids")
    if tuple(classes) != space.classes:
        raise ConfigError(
            "only the classes of Cityscapes have label ids, this dataset has others: write its class ids, "
            "with --ids train"
        )
    return space.values()


def _targets(images: Sequence[Path], out: Path, ending: str) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in images:
        file = out / f"{path.stem}{ending}.png"
        if file in files:
            raise DataError(f"{files[file]} and {path} would both become {file}; use two output folders")
        files[file] = path
    inputs = {path.resolve() for path in images}
    if taken := [file for file in files if file.resolve() in inputs]:
        raise DataError(
            f"{taken[0]} is an image to segment, and would be replaced: use another output folder"
        )
    return list(files)
