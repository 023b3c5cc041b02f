"""The command line ``dabnn``: demo, train, reproduce, evaluate, predict, export, publish, data, list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dabnn.errors import DabnnError, DataError

app = typer.Typer(
    help="One network, many datasets: train, evaluate and use dataset-aware networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Out = Annotated[Path, typer.Option(help="Folder of all runs.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the datasets; default $DABNN_DATA, or as in the config."),
]
Scale = Annotated[list[float], typer.Option(min=0.05, help="Size of a view; repeat to average.")]
Flip = Annotated[bool, typer.Option(help="Average with the mirror image.")]
Window = Annotated[tuple[int, int] | None, typer.Option(min=1, help="Height and width of windows.")]


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Print errors of the user's files and arguments as one message; let bugs show their traceback."""
    try:
        yield
    except (DabnnError, OSError) as error:  # OSError: a full disk, a folder that is a file, no permission
        console.quiet = False  # whichever process it is
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Annotated[list[int], typer.Option(help="Seed; repeat for several.")] = [0],
) -> None:
    """Train CDCL, single-dataset and shared-BN networks on toy street scenes and write a report."""
    from dabnn.experiments.demo.run import run_demo

    with _readable_errors():
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
    with _readable_errors():
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
    _print_table(f"mIoU %, {experiment.name}", columns, lines)
    console.print(f"written to {table}", markup=False, highlight=False, soft_wrap=True)
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

    with _readable_errors():
        chosen: dict[str, Any] = {"scale": scale, "seeds": seed, "methods": method}
        trainings = {t.folder: t for name in table for t in plan_table(name, out, **chosen)}
        missing = [training for training in trainings.values() if not training.finished]
        batches = sum(training.batches for training in missing)
        text = f"{len(trainings)} trainings, {len(missing)} to do: {batches:,} batches"
        console.print(text, highlight=False)
        if plan:
            for training in missing:
                console.print(f"{training.folder}: {training.batches:,}", markup=False, highlight=False)
            return
        for name in table:
            files = reproduce_table(name, out, data_dir=data, callbacks=lambda: [ProgressBar()], **chosen)
            for file in files:
                console.print(file.read_text(), markup=False, highlight=False)
                console.print(f"written to {file}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Data = None,
    scale: Scale = [1.0],
    flip: Flip = False,
    window: Window = None,
    on: Annotated[Path | None, typer.Option(help="Folder of another dataset to measure on.")] = None,
    kind: Annotated[str | None, typer.Option(help="Its reader; default folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split; default val.")] = None,
    branch: Annotated[str | None, typer.Option(help="Whose branch to measure there.")] = None,
    label_map: Annotated[
        Path | None, typer.Option("--map", help="Label map of your own, from its classes to those there.")
    ] = None,
    recalibrate: Annotated[bool, typer.Option(help="First take the statistics of its images.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.csv, evaluation.md and evaluation.json.")
    ] = None,
) -> None:
    """Evaluate a finished run again, or one branch on another dataset: the IoU of every class."""
    from dabnn.evaluation.views import choose_views
    from dabnn.experiments.measured import HEADER, Measured, write_measured
    from dabnn.experiments.saved import evaluate_run
    from dabnn.experiments.zero_shot import evaluate_elsewhere

    if on is None and (kind or split or branch or label_map or recalibrate):
        raise typer.BadParameter("--kind, --split, --branch, --map and --recalibrate need --on FOLDER")
    if on is not None and data is not None:
        raise typer.BadParameter(
            "--data is for the datasets of the run; --on FOLDER is a whole path: leave out --data"
        )
    predict = choose_views(scale, flip=flip, window=window)
    with _readable_errors():
        if on is None:
            results = evaluate_run(run, data_dir=data, predict=predict)
            measured = {name: Measured(result) for name, result in results.items()}
        else:
            kind, split = kind or "folder", split or "val"
            elsewhere = evaluate_elsewhere(
                run,
                branch,
                on,
                kind=kind,
                split=split,
                label_map=label_map,
                recalibrate=recalibrate,
                predict=predict,
            )
            measured = {str(on): elsewhere}
        for name, entry in measured.items():
            _print_table(name, HEADER, entry.table())
            for note in entry.notes:
                console.print(note, markup=False, highlight=False, soft_wrap=True)
        if out is not None:
            options = {key: str(v) if isinstance(v, Path) else v for key, v in context.params.items()}
            for file in write_measured(out, measured, {"options": options}):
                console.print(f"written to {file}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files of any size.")],
    model: Annotated[
        str, typer.Option("--model", "--run", help="A run, a name of the zoo, or a repository of the Hub.")
    ],
    dataset: Annotated[str | None, typer.Option(help="Whose branch to use; default the likeliest.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("predictions"),
    ids: Annotated[
        Literal["train", "label"] | None,
        typer.Option(help="Write class ids (train) or the label ids of Cityscapes (label), not overlays."),
    ] = None,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Do not scale images to the height of the training images.")
    ] = False,
    scale: Scale = [1.0],
    flip: Flip = False,
    window: Window = None,
) -> None:
    """Segment images and write each as an overlay PNG."""
    from dabnn.deploy.predict import predict_images
    from dabnn.evaluation.views import choose_views

    views = choose_views(scale, flip=flip, window=window)
    with _readable_errors():
        pictures = predict_images(model, images, out, dataset, ids=ids, full_size=full_size, predict=views)
        for file, used in pictures.items():
            console.print(f"{file} ({used})", markup=False, highlight=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    file: Annotated[Path, typer.Argument(help="The file to write: .onnx, or .pt2 for an ExportedProgram.")],
    dataset: Annotated[str, typer.Option(help="Whose network to export.")],
    height: Annotated[int, typer.Option(min=32, help="Height of the images.")] = 512,
    width: Annotated[int, typer.Option(min=32, help="Width of the images.")] = 1024,
    fold: Annotated[bool, typer.Option(help="Fold batch norms into convolutions.")] = True,
) -> None:
    """Write the network of one dataset for serving, and check the file against the original."""
    from dabnn.experiments.export import export_run

    with _readable_errors():
        error = export_run(run, file, dataset, (height, width), fold=fold)
        console.print(
            f"{file}: differs by {error:.1e} of the largest logit",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def publish(
    model: Annotated[str, typer.Argument(help="A run, a name of the zoo, or a saved folder.")],
    repo: Annotated[str | None, typer.Argument(help="Repository on the Hugging Face Hub, org/name.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Write the files here instead.")] = None,
    name: Annotated[str, typer.Option(help="Name of the model, for the model card.")] = "",
    licence: Annotated[str, typer.Option(help="Terms of the weights, for the model card.")] = "",
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    half: Annotated[bool, typer.Option(help="Store parameters in half precision.")] = False,
    notes: Annotated[Path | None, typer.Option(help="Markdown file to append to the model card.")] = None,
    data_licence: Annotated[
        list[str] | None, typer.Option(help="Terms of the data as DATASET=TERMS; repeatable.")
    ] = None,
) -> None:
    """Publish a network: weights, config, a file for each dataset, and a model card.

    A saved model is published as it is; what a run knows of itself can be completed.
    """
    from tempfile import TemporaryDirectory

    from dabnn.errors import ConfigError
    from dabnn.experiments.saved import load_run
    from dabnn.models.hub.locate import locate
    from dabnn.models.hub.publish import PUBLISHED, complete_info, copy_folder, write_folder
    from dabnn.models.hub.push import upload
    from dabnn.models.stored.folder import info_of, is_pretrained

    if (repo is None) == (folder is None):
        raise typer.BadParameter("say either a repository or --folder")
    with _readable_errors(), TemporaryDirectory() as temporary:
        target, to = folder or Path(temporary) / "model", repo or ""
        if Path(model).is_dir() and not is_pretrained(Path(model)):
            network = load_run(Path(model)).model
            info = complete_info(
                info_of(network), name=name, licence=licence, notes=notes, data_licences=data_licence or ()
            )
            write_folder(network, target, info, half=half, repo=to)
        elif name or licence or half or notes or data_licence:
            raise ConfigError(
                f"{model} is a saved model, which is published as it is: leave out --name, --licence, "
                "--half, --notes and --data-licence, or load it with dabnn.from_pretrained and say such "
                "things to dabnn.push_to_hub"
            )
        else:
            copy_folder(locate(model, PUBLISHED), target, repo=to)
        where = str(target) if repo is None else upload(target, repo, private=private)
        console.print(where, markup=False, highlight=False, soft_wrap=True)


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

    problems, summary = 0, []
    with _readable_errors():
        for part in split or splits_of(name, root):
            try:
                dataset = open_dataset(name, root, part)
                report = check_dataset(dataset)
            except UnmatchedFilesError as error:  # the others are read when these are mended
                problems += len(error.problems)
                official = str(READERS[name].official.get(part, ""))
                summary.append([part, str(error.pairs), official, str(len(error.problems))])
                _print_problems(error.problems)
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
            _print_table(
                f"{part}: {report.samples} samples, {sizes or 'none'}, {len(report.problems)} problems",
                ["class", "pixels %"],
                [[label, f"{100 * count / total:.2f}"] for label, count in report.pixels.items()],
            )
            _print_problems(report.problems)
    if summary:
        _print_table(f"{name} in {root}", ["split", "images", "official", "problems"], summary)
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
    _print_table("models", ["name", "alias", "weights"], zoo)
    architectures = sorted(cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values())
    _print_table("methods", ["name", "title"], [[name, method.title] for name, method in METHODS.items()])
    _print_table("toy datasets", ["name"], [[name] for name in TOY_DATASETS])
    _print_table("dataset readers", ["name", "terms"], [[name, cls.licence] for name, cls in READERS.items()])
    _print_table("tables", ["name", "title"], [[name, title] for name, title in titles().items()])
    _print_table("architectures", ["name"], [[name] for name in architectures])


def _print_problems(problems: list[str]) -> None:
    for problem in problems[:20]:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if len(problems) > 20:
        console.print(f"and {len(problems) - 20} more")


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns, title=escape(title))
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


if __name__ == "__main__":
    app()
