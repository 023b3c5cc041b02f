"""From one label space to another: relabel masks, project predictions, unite label spaces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from dabnn.batch import IGNORE_INDEX
from dabnn.data.base import Color
from dabnn.data.labels.spaces import LabelSpace, load_space
from dabnn.errors import DataError


@dataclass(frozen=True)
class LabelMap:
    """Says for each class of one label space which class of another it is.

    Attributes:
        source: Classes that are mapped.
        target: Classes that they are mapped to.
        classes: Target class by source class; None for a class without a counterpart, which becomes void.
        origin: Where this choice is from.

    Raises:
        DataError: A source class is not mapped, or a name is no class.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    classes: Mapping[str, str | None]
    origin: str = ""

    def __post_init__(self) -> None:
        unmapped = [name for name in self.source if name not in self.classes]
        unknown = [name for name in self.classes if name not in self.source]
        unknown += [name for name in self.classes.values() if name is not None and name not in self.target]
        if unmapped or unknown:
            raise DataError(
                f"a label map must map every class of its source: missing {unmapped}, unknown {unknown}; "
                "map a class without a counterpart to None"
            )

    def ids(self) -> list[int]:
        """Return the target class id of each source class, `IGNORE_INDEX` for none."""
        names = [self.classes[name] for name in self.source]
        return [IGNORE_INDEX if name is None else self.target.index(name) for name in names]

    def relabel(self, mask: Tensor) -> Tensor:
        """Return a mask (...) of source class ids as one of target class ids; void stays void."""
        table = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8, device=mask.device)
        table[: len(self.source)] = torch.tensor(self.ids(), dtype=torch.uint8, device=mask.device)
        return table[mask.long()].to(mask.dtype)

    def project(self, logits: Tensor) -> Tensor:
        """Return logits (B, source classes, ...) as logits (B, target classes, ...).

        The probability of a target class is the sum of those that are mapped to it, of all but the void
        classes; a class that nothing is mapped to gets minus infinity.

        Raises:
            DataError: The number of channels is not that of the source.
        """
        if logits.shape[1] != len(self.source):
            raise DataError(f"logits of {logits.shape[1]} classes do not fit a map of {len(self.source)}")
        ids = torch.tensor(self.ids(), device=logits.device)
        groups = [logits[:, ids == index] for index in range(len(self.target))]
        nothing = torch.full_like(logits[:, 0], -torch.inf)
        return torch.stack([group.logsumexp(1) if group.shape[1] else nothing for group in groups], dim=1)


def load_map(source: str, target: str) -> LabelMap:
    """Return a map between two label spaces that dabnn ships, see `list_maps`.

    Raises:
        DataError: There is none.
    """
    if (source, target) not in list_maps():
        known = ", ".join(f"{a} to {b}" for a, b in list_maps())
        raise DataError(
            f"there is no label map {source} to {target}; there are {known}; in a config `space` says that a "
            "dataset has one of these label spaces, or the one of another dataset"
        )
    file = files("dabnn.data.labels") / "label_maps" / f"{source}-to-{target}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    classes = load_space(source).classes, load_space(target).classes
    return LabelMap(*classes, content["classes"], content["source"])


def read_map(file: Path, source: Sequence[str], target: Sequence[str]) -> LabelMap:
    """Return the map of a JSON file ``{"classes": {SOURCE CLASS: TARGET CLASS or null}, "source": WHENCE}``.

    Args:
        file: The file, in the format of those that dabnn ships; "source" may be left out.
        source: Classes that are mapped.
        target: Classes that they are mapped to.

    Raises:
        DataError: The file is not there or has another format, or is not a map between these classes.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return LabelMap(tuple(source), tuple(target), dict(content["classes"]), content.get("source", ""))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f'{file} is no label map {{"classes": {{...}}}}: {error!r}') from error


def list_maps() -> list[tuple[str, str]]:
    """Return source and target of every label map that dabnn ships."""
    names = [
        file.name.removesuffix(".json") for file in (files("dabnn.data.labels") / "label_maps").iterdir()
    ]
    return sorted((a, b) for a, _, b in (name.partition("-to-") for name in names))


def unite(spaces: Sequence[LabelSpace], name: str = "union") -> tuple[LabelSpace, list[LabelMap]]:
    """Return the union of label spaces, and the map of each into it; classes of one name are one class.

    Args:
        spaces: In the order in which their classes are taken; a class has the colour of its first.
        name: Name of the union.
    """
    colors: dict[str, Color] = {}
    for space in spaces:
        colors = dict(zip(space.classes, space.palette, strict=True)) | colors
    classes = tuple(dict.fromkeys(c for space in spaces for c in space.classes))
    ids = {index: index for index in range(len(classes))}
    union = LabelSpace(name, classes, tuple(colors[c] for c in classes), ids, frozenset({IGNORE_INDEX}))
    maps = [LabelMap(space.classes, classes, {c: c for c in space.classes}) for space in spaces]
    return union, maps
