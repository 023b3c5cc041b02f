"""Segment image files with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PILImage
from torch import nn

import dabnn
from dabnn.data import load_space
from dabnn.data.images import read_image
from dabnn.errors import ConfigError, DataError, NoBatchNormFoundError
from dabnn.evaluation import predict_logits
from dabnn.evaluation.inference import Predict
from dabnn.experiments.overlay import Pixels, overlay, some_colors, with_legend
from dabnn.experiments.saved import choose_branch, device_of_evaluation, load_model
from dabnn.pretrained import info_of


def predict_images(
    source: str | Path,
    images: Sequence[Path],
    out: Path,
    dataset: str | None = None,
    *,
    ids: bool = False,
    predict: Predict = predict_logits,
) -> dict[Path, str]:
    """Segment images with the branch of one dataset; write each as an overlay with a legend, or as ids.

    Images are segmented at their own size, one by one; a broken one stops there and earlier pictures stay.

    Args:
        source: Folder of a finished training, or what `dabnn.from_pretrained` takes.
        images: JPEG or PNG files of any size.
        out: Folder of the pictures ``<stem>_overlay.png`` or ``<stem>.png``; created if absent.
        dataset: Whose branch to use; left out, for each image that of the dataset it is most like
            (`dabnn.guess_dataset`). Ids, whose meaning depends on it, need one if there are several.
        ids: Write class ids as grey values; of the classes of Cityscapes its label ids, as its server
            takes them.
        predict: How logits come from images, see `dabnn.evaluation.evaluate_model`.

    Returns:
        The dataset whose branch was used by written file, in the order of ``images``.

    Raises:
        CheckpointError: If ``source`` holds no finished training, or one of its files is damaged.
        ConfigError: If the dataset is none of the model's, or must be given.
        DataError: If an image cannot be read, or two have the same stem.
    """
    model = load_model(source).to(device_of_evaluation())
    datasets = info_of(model).datasets
    known = dataset is not None or ids or len(datasets) == 1
    chosen = choose_branch(dataset, list(datasets), source, "--dataset") if known else None
    files = _targets(images, out, "" if ids else "_overlay")
    used = {}
    for path, file in zip(images, files, strict=True):
        pixels = read_image(path)
        out.mkdir(parents=True, exist_ok=True)
        used[file] = name = chosen or _most_like(model, pixels)
        space = datasets[name]
        segmented = segment(model, pixels, name, predict)
        if ids:
            picture = _values(space.classes)[segmented]
        else:
            palette = space.palette or some_colors(len(space.classes))
            picture = with_legend(overlay(pixels, segmented, palette), space.classes, palette)
        PILImage.fromarray(picture).save(file)
    return used


def _most_like(model: nn.Module, pixels: Pixels) -> str:
    """Return the dataset of a model that an image (H, W, 3) is most like."""
    try:
        guess = dabnn.guess_dataset(model, dabnn.preprocess(model, pixels))
    except NoBatchNormFoundError as error:
        raise ConfigError(f"say which dataset an image is like with --dataset: {error}") from error
    return str(guess.together)


def segment(
    model: nn.Module, pixels: Pixels, dataset: str, predict: Predict = predict_logits
) -> npt.NDArray[np.int64]:
    """Return the class ids (H, W) that a model of `load_model` gives an image (H, W, 3) of a dataset."""
    with torch.inference_mode(), dabnn.use_dataset(model, dataset):
        logits = predict(model, dabnn.preprocess(model, pixels))
    ids: npt.NDArray[np.int64] = logits[0].argmax(0).cpu().numpy()
    return ids


def _values(classes: Sequence[str]) -> Pixels:
    """Return the grey value of each class id (C,)."""
    if tuple(classes) == load_space("cityscapes").classes:
        return load_space("cityscapes_label_ids").values()
    return np.arange(len(classes), dtype=np.uint8)


def _targets(images: Sequence[Path], out: Path, ending: str) -> list[Path]:
    files: dict[Path, Path] = {}
    for path in images:
        file = out / f"{path.stem}{ending}.png"
        if file in files:
            raise DataError(f"{files[file]} and {path} would both become {file}; use two output folders")
        files[file] = path
    return list(files)
