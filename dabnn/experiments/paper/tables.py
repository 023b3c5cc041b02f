"""What the tables of the paper compare, read from data: lines, columns, and the experiment behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import as_file, files

import yaml
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from dabnn.errors import ConfigError
from dabnn.experiments.config import Config, Natural, load_config
from dabnn.experiments.methods import get_method
from dabnn.schema import STRICT

FOLDER = files("dabnn.experiments.paper")

SCALES = ("small", "paper")


@dataclass(frozen=True, config=STRICT)
class Line:
    """One line of a table: a method, and what of it is measured.

    Attributes:
        method: Name of the method.
        branch: Number of the dataset whose branch is measured on every column; left out, each column is
            measured with its own.
        recalibrate: Replace the running statistics by those of the images of the column first.
        paper: The paper's mIoU in percent, one for each of its columns.
    """

    method: str
    branch: Natural | None = None
    recalibrate: bool = False
    paper: tuple[float, ...] = ()

    def key(self, datasets: Sequence[str]) -> str:
        """Return a name of the line for files, such as "cdcl" or "single@camvid+recalibrated"."""
        name = self.method if self.branch is None else f"{self.method}@{datasets[self.branch]}"
        return f"{name}+recalibrated" if self.recalibrate else name

    def title(self, datasets: Sequence[str]) -> str:
        """Return what tables call the line, by the names of the datasets that are trained on."""
        title = get_method(self.method).title
        title = title if self.branch is None else f"{title}, branch of {datasets[self.branch]}"
        return f"{title}, recalibrated" if self.recalibrate else title


@dataclass(frozen=True, config=STRICT)
class Table:
    """One table of the paper.

    Attributes:
        title: What it shows.
        experiment: Name of the experiment that its methods are compared in.
        lines: The lines in their order.
        seeds: Seeds to average over.
        datasets: Datasets of the paper that are trained on.
        columns: Columns of the paper, if they are others.
        held_out_only: Show the held-out splits of the experiment only, not its datasets.
    """

    title: str
    experiment: str
    lines: tuple[Line, ...]
    seeds: tuple[int, ...] = (0,)
    datasets: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    held_out_only: bool = False

    def measured(self, config: Config) -> list[str]:
        """Return the columns at the scale of an experiment: its datasets and its held-out splits."""
        return [*(() if self.held_out_only else config.datasets), *config.held_out]


def load_tables() -> dict[str, Table]:
    """Return all tables by name."""
    return TypeAdapter(dict[str, Table]).validate_python(yaml.safe_load((FOLDER / "tables.yaml").read_text()))


def find_tables(name: str, others: Iterable[str] = ()) -> dict[str, Table]:
    """Return the table of a name, or its parts: "table1" is "table1a" and "table1b".

    Args:
        name: The name.
        others: What else to name in the error.

    Raises:
        ConfigError: There is none.
    """
    tables = load_tables()
    found = {key: table for key, table in tables.items() if name in (key, key.rstrip("ab"))}
    if not found:
        raise ConfigError(f"there is no table {name!r}; there are {', '.join([*tables, *others])}")
    return found


def load_experiment(name: str, scale: str = "small") -> Config:
    """Return the experiment of a table.

    Raises:
        ConfigError: If it does not exist at this scale.
    """
    with as_file(FOLDER) as folder:
        file = folder / scale / f"{name}.yaml"
        if not file.is_file():
            others = [other for other in SCALES if (folder / other / f"{name}.yaml").is_file()]
            raise ConfigError(f"there is no experiment {name!r} at scale {scale!r}, only at {others}")
        return load_config(file)
