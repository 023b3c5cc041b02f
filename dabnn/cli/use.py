"""Commands that use a finished model: evaluate, predict, export, publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dabnn.cli.app import app
from dabnn.cli.console import SOURCE, Data, Flip, Scale, Window, print_table, readable_errors, say


@app.command()
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help=SOURCE)],
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
    """Evaluate a finished run again, or one branch of a model on another dataset: the IoU of every class."""
    from dabnn.evaluation.views import choose_views
    from dabnn.experiments.measured import HEADER, Measured, write_measured
    from dabnn.experiments.saved import evaluate_run, load_source
    from dabnn.experiments.zero_shot import evaluate_elsewhere

    if on is None and (kind or split or branch or label_map or recalibrate):
        raise typer.BadParameter("--kind, --split, --branch, --map and --recalibrate need --on FOLDER")
    if on is not None and data is not None:
        raise typer.BadParameter(
            "--data is for the datasets of the run; --on FOLDER is a whole path: leave out --data"
        )
    predict = choose_views(scale, flip=flip, window=window)
    with readable_errors():
        if on is None:
            results = evaluate_run(model, data_dir=data, predict=predict)
            measured = {name: Measured(result) for name, result in results.items()}
        else:
            network, config = load_source(model)
            elsewhere = evaluate_elsewhere(
                network,
                branch,
                on,
                kind=kind or "folder",
                split=split or "val",
                label_map=label_map,
                recalibrate=recalibrate,
                batch_size=None if config is None else config.training.batch_size,
                predict=predict,
            )
            measured = {str(on): elsewhere}
        for name, entry in measured.items():
            print_table(name, HEADER, entry.table())
            for note in entry.notes:
                say(note)
        if out is not None:
            options = {key: str(v) if isinstance(v, Path) else v for key, v in context.params.items()}
            for file in write_measured(out, measured, {"options": options}):
                say(f"written to {file}")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files of any size.")],
    model: Annotated[str, typer.Option("--model", "--run", help=SOURCE)],
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
    from dabnn.evaluation.inference import best_device
    from dabnn.evaluation.views import choose_views
    from dabnn.experiments.saved import load_model

    views = choose_views(scale, flip=flip, window=window)
    with readable_errors():
        network = load_model(model).to(best_device())
        pictures = predict_images(network, images, out, dataset, ids=ids, full_size=full_size, predict=views)
        for file, used in pictures.items():
            say(f"{file} ({used})")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=SOURCE)],
    file: Annotated[Path, typer.Argument(help="The file to write: .onnx, or .pt2 for an ExportedProgram.")],
    dataset: Annotated[str, typer.Option(help="Whose network to export.")],
    height: Annotated[int, typer.Option(min=32, help="Height of the images.")] = 512,
    width: Annotated[int, typer.Option(min=32, help="Width of the images.")] = 1024,
    fold: Annotated[bool, typer.Option(help="Fold batch norms into convolutions.")] = True,
) -> None:
    """Write the network of one dataset for serving, and check the file against the original."""
    from dabnn.deploy.export import export_dataset
    from dabnn.experiments.saved import load_model

    with readable_errors():
        error = export_dataset(load_model(model), file, dataset, (height, width), fold=fold)
        say(f"{file}: differs by {error:.1e} of the largest logit")


@app.command()
def publish(
    model: Annotated[str, typer.Argument(help=SOURCE)],
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
    from dabnn.experiments.saved import is_run, load_model
    from dabnn.models.hub.locate import locate
    from dabnn.models.hub.publish import PUBLISHED, complete_info, copy_folder, write_folder
    from dabnn.models.hub.push import upload
    from dabnn.models.stored.folder import info_of

    if (repo is None) == (folder is None):
        raise typer.BadParameter("say either a repository or --folder")
    with readable_errors(), TemporaryDirectory() as temporary:
        target = folder or Path(temporary) / "model"
        if is_run(model):
            network = load_model(model)
            info = complete_info(
                info_of(network), name=name, licence=licence, notes=notes, data_licences=data_licence or ()
            )
            write_folder(network, target, info, half=half, repo=repo or "")
        elif name or licence or half or notes or data_licence:
            raise ConfigError(
                f"{model} is a saved model, which is published as it is: leave out --name, --licence, "
                "--half, --notes and --data-licence, or load it with dabnn.from_pretrained and say such "
                "things to dabnn.push_to_hub"
            )
        else:
            copy_folder(locate(model, PUBLISHED), target, repo=repo or "")
        say(target if repo is None else upload(target, repo, private=private))
