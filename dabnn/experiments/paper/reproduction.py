"""A table of the paper: train what is missing, average the seeds, write table and figure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

from dabnn.errors import ConfigError, DataError
from dabnn.experiments.build import build_dataset, data_directory
from dabnn.experiments.comparison import OURS
from dabnn.experiments.config import Config
from dabnn.experiments.paper.distributions import FIGURE_SEEDS, write_figure
from dabnn.experiments.paper.measure import check_line, measure_line, measured_file
from dabnn.experiments.paper.multiplications import write_costs
from dabnn.experiments.paper.rendering import beside_paper, compare
from dabnn.experiments.paper.tables import SCALES, Table, find_tables, load_experiment, load_tables
from dabnn.experiments.report.figures import bar_plot
from dabnn.experiments.results import Row, read_json, write_rows
from dabnn.experiments.run import Callbacks, Run, run_method, run_with, runs_of
from dabnn.experiments.saved import RESULT

COSTS, FIGURE = "table5", "figure3"


def reproduce(
    name: str,
    out: Path,
    *,
    scale: str = "small",
    data_dir: Path | None = None,
    seeds: Iterable[int] | None = None,
    methods: Collection[str] = (),
    config: Config | None = None,
    callbacks: Callbacks = tuple,
) -> list[Path]:
    """Train every network of a table that is not trained yet; write ``<name>.csv``, ``.md`` and ``.svg``.

    Tables of one experiment share their trainings. After an interruption the same call goes on where it
    stopped.

    Args:
        name: Name of the table or figure; of a table with parts, all of them.
        out: Folder of the tables and of all trainings, by scale.
        scale: "paper", or "small" for the three small datasets on a CPU.
        data_dir: Folder of the datasets, if not the experiment's.
        seeds: Seeds, instead of the table's.
        methods: Make the lines of these methods only, and those of CDCL; default all.
        config: The experiment, instead of the table's.
        callbacks: Makes further callbacks for each training.

    Returns:
        The Markdown files.

    Raises:
        ConfigError: If there is no such table at this scale, or a method has no line in it.
        DataError: If a dataset is not there, or a label map between two of them.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale must be one of {SCALES}, got {scale!r}")
    folder = out / scale
    tables = _find(name, methods)
    if name == COSTS:
        return [write_costs(folder, name)]
    if name == FIGURE:
        config = config or load_experiment("three_sets", scale)
        _check_data(config, config.datasets, data_directory(config, data_dir))
        return [write_figure(folder, name, config, data_dir=data_dir, seeds=seeds, callbacks=callbacks)]
    return [
        _reproduce(
            part,
            table,
            config or load_experiment(table.experiment, scale),
            folder,
            data_dir,
            tuple(table.seeds if seeds is None else seeds),
            callbacks,
        )
        for part, table in tables.items()
    ]


def plan(
    name: str,
    out: Path,
    *,
    scale: str = "small",
    seeds: Iterable[int] | None = None,
    methods: Collection[str] = (),
    config: Config | None = None,
) -> list[Run]:
    """Return the runs that `reproduce` makes or finds, in its order; see there for the arguments."""
    tables = _find(name, methods)
    if name == COSTS:
        return []
    if name == FIGURE:
        config = config or load_experiment("three_sets", scale)
        return _needed(config, ["single"], seeds or FIGURE_SEEDS, out / scale / config.name)
    found: dict[Path, Run] = {}
    for table in tables.values():
        chosen = config or load_experiment(table.experiment, scale)
        names = [line.method for line in table.lines]
        runs = _needed(chosen, names, seeds or table.seeds, out / scale / chosen.name)
        found |= {run.folder: run for run in runs}
    return list(found.values())


def _needed(config: Config, methods: Iterable[str], seeds: Iterable[int], out: Path) -> list[Run]:
    """Return the runs of methods and seeds in the order in which they are made, each once."""
    needed: dict[Path, Run] = {}
    for seed, method in product(seeds, list(methods)):
        for run in runs_of(config, method, seed, out):
            for each in (run.start, run):
                if each is not None:
                    needed.setdefault(each.folder, each)
    return list(needed.values())


def titles() -> dict[str, str]:
    """Return the title of every table and figure by name."""
    return {name: table.title for name, table in load_tables().items()} | {
        COSTS: "Multiplications of the networks",
        FIGURE: "Distributions in separately trained networks",
    }


def _find(name: str, methods: Collection[str]) -> dict[str, Table]:
    """Return the tables of a name with the lines of the chosen methods; none if it is not about trainings."""
    found = {} if name in (COSTS, FIGURE) else find_tables(name, others=(COSTS, FIGURE))
    known = {line.method for table in found.values() for line in table.lines}
    if unknown := sorted(set(methods) - known):
        raise ConfigError(f"{name} has no lines of {unknown}; it has those of {sorted(known)}")
    if not methods:
        return found
    chosen = {*methods, OURS}
    return {
        part: replace(table, lines=tuple(line for line in table.lines if line.method in chosen))
        for part, table in found.items()
    }


def _reproduce(
    name: str,
    table: Table,
    config: Config,
    out: Path,
    data_dir: Path | None,
    seeds: tuple[int, ...],
    callbacks: Callbacks,
) -> Path:
    columns = table.measured(config)
    _check_data(config, columns, data_directory(config, data_dir))
    for line in table.lines:
        check_line(config, line, columns)
    runs = out / config.name
    rows: list[Row] = []
    for seed in seeds:
        for line in table.lines:
            run_method(config, line.method, seed, runs, data_dir=data_dir, callbacks=callbacks)
            rows += measure_line(config, line, seed, columns, runs, data_dir)
    write_rows(out / f"{name}.csv", rows, config, _environments(table, config, columns, seeds, runs))
    bar_plot(out / f"{name}.svg", table.title, compare(table, config, rows))
    file = out / f"{name}.md"
    file.write_text(f"# {table.title}\n\n{beside_paper(table, config, rows)}")
    return file


def _environments(
    table: Table, config: Config, columns: Iterable[str], seeds: Iterable[int], runs: Path
) -> list[dict[str, str]]:
    """Return the environments of all trainings of a table, and of what was measured with them since."""
    lines = list(product(table.lines, seeds))
    files = {
        run_with(config, line.method, seed, name, runs).folder / RESULT
        for line, seed in lines
        for name in config.datasets
    }
    files |= {
        file
        for (line, seed), column in product(lines, columns)
        if (file := measured_file(config, line, seed, column, runs)) is not None
    }
    records = [read_json(file) for file in sorted(files)]
    return [record["environment"] for record in records if record is not None]


def _check_data(config: Config, columns: Iterable[str], root: Path) -> None:
    """Open every split that will be read, so that a wrong folder is found before any training."""
    splits = [(name, train) for name in config.datasets for train in (True, False)]
    splits += [(name, False) for name in columns if name in config.held_out]
    try:
        for name, train in splits:
            build_dataset(config, name, train=train, data_dir=root)
    except DataError as error:
        raise DataError(
            f"{error} Other folder of the datasets than {root}: --data or $DABNN_DATA."
        ) from error
