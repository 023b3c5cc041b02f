"""Commands that train: demo, train, reproduce."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dabnn.cli.app import app
from dabnn.cli.console import Data, Out, console, print_table, readable_errors, say


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],
) -> None:
    """Train CDCL, single-dataset and shared-BN networks on toy street scenes and write a report."""
    from dabnn.experiments.demo.run import run_demo

    with readable_errors():
        run_demo(out, seeds=tuple(seed))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, see examples/configs.")],
    method: Annotated[list[str], typer.Option(help="A method of `dabnn list`; repeatable.")] = ["cdcl"],
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],
    steps: Annotated[int | None, typer.Option(help="Number of steps, instead of the config's.")] = None,
    out: Out = Path("runs"),
    data: Data = None,
) -> None:
    """Train networks from a config, evaluate them and write one table; finished runs are not repeated.

    In several processes: torchrun --nproc-per-node 2 --no-python dabnn train CONFIG
    """
    from dabnn.experiments.config import load_config, with_steps
    from dabnn.experiments.results import write_table
    from dabnn.experiments.run import run_method
    from dabnn.training import ProgressBar
    from dabnn.training.processes import agreed, processes

    console.quiet = not processes().is_main_process
    with readable_errors():
        experiment = load_config(config)
        if steps is not None:
            experiment = with_steps(experiment, steps)
        folder = out / experiment.name
        for number in seed:
            for name in method:
                console.print(f"[bold]{escape(name)}[/], seed {number}")
                run_method(experiment, name, number, folder, data_dir=data, callbacks=lambda: [ProgressBar()])
        table = out / f"{experiment.name}.csv"
        rows = agreed(partial(write_table, folder, table, experiment), main_only=True) or []
    columns = ["method", "dataset", "seed", "steps", "miou"]
    lines = [[row.method, row.dataset, str(row.seed), str(row.steps), f"{row.miou:.2f}"] for row in rows]
    print_table(f"mIoU %, {experiment.name}", columns, lines)
    say(f"written to {table}")
    processes().destroy_process_group()  # else a process that ends first may make another abort


@app.command()
def reproduce(
    table: Annotated[list[str], typer.Argument(help="Such as table3 or figure3; `dabnn list` has all.")],
    scale: Annotated[
        str, typer.Option(help="small (three small datasets, on a CPU) or paper (the full datasets).")
    ] = "small",
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeatable; default the table's.")] = None,
    method: Annotated[
        list[str], typer.Option(help="Only the lines of this method, and CDCL; repeatable.")
    ] = [],
    out: Out = Path("runs/reproduce"),
    data: Data = None,
    plan: Annotated[bool, typer.Option(help="Only say what would be trained.")] = False,
) -> None:
    """Train and evaluate every network behind a table or figure of the paper that is not there yet."""
    from dabnn.experiments.paper import plan as plan_table
    from dabnn.experiments.paper import reproduce as reproduce_table
    from dabnn.training import ProgressBar

    with readable_errors():
        chosen: dict[str, Any] = {"scale": scale, "seeds": seed, "methods": method}
        trainings = {t.folder: t for name in table for t in plan_table(name, out, **chosen)}
        missing = [training for training in trainings.values() if not training.finished]
        batches = sum(training.batches for training in missing)
        text = f"{len(trainings)} trainings, {len(missing)} to do: {batches:,} batches"
        console.print(text, highlight=False)
        if plan:
            for training in missing:
                say(f"{training.folder}: {training.batches:,}")
            return
        for name in table:
            files = reproduce_table(name, out, data_dir=data, callbacks=lambda: [ProgressBar()], **chosen)
            for file in files:
                say(file.read_text())
                say(f"written to {file}")
