"""The tables of the paper, each by one call: train what is missing, average the seeds, write the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.resources import as_file, files
from pathlib import Path

import yaml
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from dabnn.errors import ConfigError
from dabnn.experiments.build import data_directory
from dabnn.experiments.comparison import Comparison, markdown
from dabnn.experiments.config import STRICT, Config, load_config
from dabnn.experiments.methods import METHODS
from dabnn.experiments.run import run_method, write_table
from dabnn.training import Callback

FOLDER = files("dabnn.experiments") / "tables"


@dataclass(frozen=True, config=STRICT)
class Table:
    """One table of the paper.

    Attributes:
        title: What it shows.
        experiment: Name of the experiment that its methods are compared in.
        methods: The methods, in the order of the lines; CDCL is one of them.
        seeds: Seeds to average over.
        columns: Datasets of the paper.
        paper: The paper's mIoU in percent by method, one for each column.
    """

    title: str
    experiment: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    paper: dict[str, tuple[float, ...]]


def load_tables() -> dict[str, Table]:
    """Return all tables by name."""
    return TypeAdapter(dict[str, Table]).validate_python(yaml.safe_load((FOLDER / "tables.yaml").read_text()))


def load_experiment(name: str) -> Config:
    """Return the experiment of a table."""
    with as_file(FOLDER) as folder:
        return load_config(folder / f"{name}.yaml")


def reproduce(
    name: str,
    out: Path,
    *,
    data_dir: Path | None = None,
    seeds: Iterable[int] | None = None,
    config: Config | None = None,
    callbacks: Callable[[], Iterable[Callback]] = tuple,
) -> Path:
    """Train every network of a table that is not trained yet, and write ``<name>.csv`` and ``<name>.md``.

    Tables of one experiment share their trainings. After an interruption the same call goes on where it
    stopped.

    Args:
        name: Name of the table.
        out: Folder of the tables and of all trainings.
        data_dir: Folder of the datasets, if not the experiment's.
        seeds: Seeds, instead of the table's.
        config: The experiment, instead of the table's.
        callbacks: Makes further callbacks for each training.

    Returns:
        The Markdown file.

    Raises:
        ConfigError: If there is no such table, or the datasets are not there.
    """
    tables = load_tables()
    if name not in tables:
        raise ConfigError(f"there is no table {name!r}; there are {', '.join(tables)}")
    table = tables[name]
    config = config or load_experiment(table.experiment)
    _check_data(config, data_directory(config, data_dir))
    runs = out / config.name
    rows = [
        row
        for seed in (table.seeds if seeds is None else seeds)
        for method in table.methods
        for row in run_method(config, method, seed, runs, data_dir=data_dir, callbacks=callbacks)
    ]
    write_table(runs, out / f"{name}.csv", config, wanted=set(rows).__contains__)
    header, methods, gains = Comparison(tuple(rows)).table()
    text = f"# {table.title}\n\n## Measured\n\n{markdown(header, [*methods, *gains])}"
    if table.paper:
        lines = [[METHODS[method].title, *map("{:.2f}".format, v)] for method, v in table.paper.items()]
        text += f"\n## In the paper\n\n{markdown(['mIoU %', *table.columns], lines)}"
    file = out / f"{name}.md"
    file.write_text(text)
    return file


def _check_data(config: Config, root: Path) -> None:
    folders = [root / entry.root for entry in config.datasets.values()]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise ConfigError(
            f"the datasets {', '.join(missing)} are not there: say with --data or $DABNN_DATA where they are"
        )
