"""Export one dataset's network of a finished training."""

from __future__ import annotations

from pathlib import Path

import torch

import dabnn
from dabnn.deploy.export import export_model
from dabnn.errors import ConfigError
from dabnn.experiments.saved import load_run

FORMATS = {".onnx": "onnx", ".pt2": "pt2"}


def export_run(run: Path, file: Path, dataset: str, size: tuple[int, int], *, fold: bool = True) -> float:
    """Write the network of one dataset as ONNX or ExportedProgram, by the suffix of the file.

    The network takes images normalised as the run's config says, and returns logits of the same size.

    Args:
        run: Folder of a finished training.
        file: The file to write, ``.onnx`` or ``.pt2``.
        dataset: Whose network.
        size: Height and width of the images.
        fold: Fold batch norms into convolutions first.

    Returns:
        The largest difference from the original, relative to the largest logit.

    Raises:
        ConfigError: If the suffix or the dataset is unknown.
        CheckpointError: If the run is not finished or damaged, or the file cannot be written.
        DabnnError: If the file computes something else than the original; it is not written then.
    """
    if file.suffix not in FORMATS:
        raise ConfigError(f"{file} must end in one of {list(FORMATS)}")
    saved = load_run(run)
    if dataset not in saved.datasets:
        raise ConfigError(f"{run} has no dataset {dataset!r}, only {list(saved.datasets)}")
    plain = dabnn.extract_dataset(saved.model, dataset)
    example = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    if fold:
        plain = dabnn.fold_batch_norm(plain, example[:1])
    return export_model(plain, file, example, format=FORMATS[file.suffix])  # type: ignore[arg-type]
