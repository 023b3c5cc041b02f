"""Write a network for serving, as ONNX or as a torch ExportedProgram, and check it against eager."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dabnn.conversion.extract import extract_dataset
from dabnn.deploy.fold import fold_batch_norm
from dabnn.errors import ConfigError, ConversionError, DabnnError
from dabnn.layers import DatasetSwitch
from dabnn.storage.atomic import written_atomically

Format = Literal["onnx", "pt2"]

FORMATS: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
"""Format by suffix of the file."""
TOLERANCE = 1e-3
"""Largest difference allowed from the eager output, relative to its largest value."""


def export_model(model: nn.Module, path: str | Path, example: Tensor, *, format: Format = "onnx") -> float:
    """Export a plain model in eval mode, run the file on an example, and compare with the model.

    The batch size stays free, height and width are those of the example.

    Args:
        model: A plain model that returns one tensor, from `dabnn.extract_dataset`; it is not changed.
        path: The file to write.
        example: Images (B, 3, H, W) on the device of the model, with B of 2 or more.
        format: "onnx" (needs ``pip install dabnn[export]``) or "pt2", a torch ExportedProgram.

    Returns:
        The largest difference of the outputs, relative to the largest output.

    Raises:
        ConversionError: If the model is dataset-aware.
        ConfigError: If the format is unknown, its packages are missing, or the example is a single image.
        DabnnError: If the exported network computes something else; no file is written then.
        CheckpointError: If the file cannot be written.
    """
    if any(isinstance(module, DatasetSwitch) for module in model.modules()):
        raise ConversionError(
            "take the plain model of one dataset with dabnn.extract_dataset and export that"
        )
    if format not in ("onnx", "pt2"):
        raise ConfigError(f"format must be 'onnx' or 'pt2', got {format!r}")
    if len(example) < 2:  # torch.export takes a size of 1 for a constant
        raise ConfigError("the example needs two images or more, for the batch size to stay free")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = model(example)
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    finally:
        model.train(training)
    with written_atomically(Path(path)) as temporary:
        write, run = (_write_onnx, _run_onnx) if format == "onnx" else (_write_pt2, _run_pt2)
        write(program, temporary)
        error = _relative(run(temporary, example), expected)
        if not error <= TOLERANCE:
            raise DabnnError(
                f"the exported network differs by {error:.1e} of the largest output; {path} not written"
            )
    return error


def export_dataset(
    model: nn.Module, file: Path, dataset: str, size: tuple[int, int], *, fold: bool = True
) -> float:
    """Write the network of one dataset as ONNX or ExportedProgram, by the suffix of the file.

    The network takes images normalised as those of the training, and returns logits of the same size.

    Args:
        model: A converted model on the CPU; it is not changed.
        file: The file to write, ``.onnx`` or ``.pt2``.
        dataset: Whose network.
        size: Height and width of the images.
        fold: Fold batch norms into convolutions first.

    Returns:
        The largest difference from the original, relative to the largest logit.

    Raises:
        ConfigError: If the suffix is unknown.
        UnknownDatasetError: If the model does not know the dataset.
        CheckpointError: If the file cannot be written.
        DabnnError: If the file computes something else than the original; it is not written then.
    """
    if file.suffix not in FORMATS:
        raise ConfigError(f"{file} must end in one of {list(FORMATS)}")
    plain = extract_dataset(model, dataset)
    example = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    if fold:
        plain = fold_batch_norm(plain, example[:1])
    return export_model(plain, file, example, format=FORMATS[file.suffix])


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())


def _run_pt2(path: Path, example: Tensor) -> Tensor:
    program = torch.export.load(io.BytesIO(path.read_bytes()))
    output: Tensor = program.module()(example)
    return output


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ONNX needs `pip install dabnn[export]` ({error.name} is missing)") from None
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    if exported is None:
        raise DabnnError("torch could not express the network in ONNX")
    exported.save(str(path), external_data=False)


def _run_onnx(path: Path, example: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: example.cpu().numpy()})
    return torch.from_numpy(np.asarray(output))


def _relative(output: Tensor, expected: Tensor) -> float:
    difference = (output.cpu() - expected.cpu()).abs().max() / expected.abs().max().cpu().clamp(min=1e-12)
    return difference.item()
