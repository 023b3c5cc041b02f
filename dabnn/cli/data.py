"""Commands that look at datasets, and at what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dabnn.cli.app import app
from dabnn.cli.console import console, print_problems, print_table, readable_errors
from dabnn.errors import DataError

data_app = typer.Typer(help="Look at datasets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(help="A reader of `dabnn list`, such as cityscapes or folder.")],
    root: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    split: Annotated[list[str] | None, typer.Option(help="Split; repeatable; default all.")] = None,
) -> None:
    """Read every image and label of a dataset and report what is broken, missing or mislabelled."""
    from dabnn.data.check import check_dataset
    from dabnn.data.readers.pairs import UnmatchedFilesError
    from dabnn.data.readers.registry import READERS, open_dataset, splits_of

    problems = 0
    summary: list[list[str]] = []
    with readable_errors():
        for part in split or splits_of(name, root):
            try:
                dataset = open_dataset(name, root, part)
                report = check_dataset(dataset)
            except UnmatchedFilesError as error:  # the others are read when these are mended
                problems += len(error.problems)
                official = str(READERS[name].official.get(part, ""))
                summary.append([part, str(error.pairs), official, str(len(error.problems))])
                print_problems(error.problems)
                continue
            except DataError as error:
                problems += 1
                console.print(f"[bold red]{escape(part)}:[/] {escape(str(error))}", soft_wrap=True)
                continue
            problems += len(report.problems)
            official = str(dataset.official.get(part, ""))
            summary.append([part, str(len(dataset)), official, str(len(report.problems))])
            total = max(sum(report.pixels.values()), 1)
            sizes = ", ".join(f"{w}x{h} ({count})" for (h, w), count in sorted(report.sizes.items()))
            print_table(
                f"{part}: {report.samples} samples, {sizes or 'none'}, {len(report.problems)} problems",
                ["class", "pixels %"],
                [[label, f"{100 * count / total:.2f}"] for label, count in report.pixels.items()],
            )
            print_problems(report.problems)
    if summary:
        print_table(f"{name} in {root}", ["split", "images", "official", "problems"], summary)
    if problems:
        console.print(f"{problems} problems")
        raise typer.Exit(1)


@app.command(name="list")
def list_() -> None:
    """List the models, the training methods, the datasets and the segmentation architectures."""
    import segmentation_models_pytorch as smp

    from dabnn.data import TOY_DATASETS
    from dabnn.data.readers.registry import READERS
    from dabnn.experiments.methods import METHODS
    from dabnn.experiments.paper import titles
    from dabnn.models.registry import entries

    zoo = [[entry.name, entry.alias, "yes" if entry.pretrained else "no"] for entry in entries().values()]
    print_table("models", ["name", "alias", "weights"], zoo)
    architectures = sorted(cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values())
    print_table("methods", ["name", "title"], [[name, method.title] for name, method in METHODS.items()])
    print_table("toy datasets", ["name"], [[name] for name in TOY_DATASETS])
    print_table("dataset readers", ["name", "terms"], [[name, cls.licence] for name, cls in READERS.items()])
    print_table("tables", ["name", "title"], [[name, title] for name, title in titles().items()])
    print_table("architectures", ["name"], [[name] for name in architectures])
