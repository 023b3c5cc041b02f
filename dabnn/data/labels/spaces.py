"""Label spaces: the classes of a dataset, and which values of its label files stand for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from dabnn.batch import IGNORE_INDEX
from dabnn.data.base import Color
from dabnn.errors import DataError


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a dataset.

    Attributes:
        name: Name of the label space; two that differ in the values of the files alone have one name.
        classes: Class names; a class id is an index into them.
        palette: One RGB colour in [0, 255] per class.
        ids: Class id by value of the label files; several values may stand for one class.
        void: Values of the label files that mean no class.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ids: Mapping[int, int]
    void: frozenset[int]

    def table(self) -> npt.NDArray[np.int16]:
        """Return the class id for every value (256,): `IGNORE_INDEX` for void, -1 for one without meaning."""
        table = np.full(256, -1, dtype=np.int16)
        table[list(self.void)] = IGNORE_INDEX
        for value, index in self.ids.items():
            table[value] = index
        return table

    def values(self) -> npt.NDArray[np.uint8]:
        """Return a value of the label files for each class (C,): the smallest that stands for it."""
        smallest = {index: value for value, index in sorted(self.ids.items(), reverse=True)}
        return np.array([smallest[index] for index in range(len(self.classes))], dtype=np.uint8)

    def expected(self) -> str:
        """Say which values the label files may hold."""
        return f"expected are {_ranges(self.ids)} for classes and {_ranges(self.void)} for void"


def load_space(name: str) -> LabelSpace:
    """Return a label space that dabnn ships, see `list_spaces`.

    Raises:
        DataError: There is none of that name.
    """
    file = files("dabnn.data.labels") / "label_spaces" / f"{name}.json"
    if not file.is_file():
        raise DataError(f"unknown label space {name!r}; there are {', '.join(list_spaces())}")
    content = json.loads(file.read_text(encoding="utf-8"))
    classes = tuple(content["classes"])
    ids = {int(value): classes.index(label) for value, label in content["ids"].items()}
    palette = tuple((red, green, blue) for red, green, blue in content["classes"].values())
    return LabelSpace(content.get("name", name), classes, palette, ids, frozenset(content["void"]))


def find_space(classes: Sequence[str]) -> str | None:
    """Return the name of the label space that dabnn ships with just these classes, if there is one."""
    spaces = map(load_space, list_spaces())
    return next((space.name for space in spaces if space.classes == tuple(classes)), None)


def list_spaces() -> list[str]:
    """Return the names of the label spaces that dabnn ships."""
    folder = files("dabnn.data.labels") / "label_spaces"
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))


def _ranges(values: Mapping[int, int] | frozenset[int]) -> str:
    """Write numbers as ranges, such as "0 to 18, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{low} to {high}" if low < high else str(low) for low, high in runs) or "none"
