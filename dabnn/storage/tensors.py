"""Read tensors from safetensors files; nothing that could run code is ever read."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return all tensors of a file that safetensors' ``save_model`` wrote, those with two names twice.

    Raises:
        OSError: If it cannot be read.
        SafetensorError: If it is damaged.
    """
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        # A tensor with two names is stored once, its other name in the metadata.
        return tensors | {n: tensors[o] for n, o in (stored.metadata() or {}).items() if o in tensors}
