"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from dabnn.cli import app
from dabnn.data import ToyStreets, load_space
from dabnn.experiments.demo.toy_folders import write_folder

runner = CliRunner()
CITIES = ("northport", "sunvale")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a config, its data, and a finished training."""
    root = tmp_path_factory.mktemp("project")
    for name in CITIES:
        splits = {s: ToyStreets(name, s, size=(32, 64), length=4) for s in ("train", "val")}
        write_folder(splits, root / "data" / name)
    config = {
        "name": "tiny",
        "data_dir": "data",
        "datasets": {name: {"root": name} for name in CITIES},
        "model": {"architecture": "FPN", "encoder": "tu-test_resnet"},
        "images": {"crop": [32, 32]},
        "training": {"steps": 2, "batch_size": 2},
    }
    (root / "tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    result = run(
        "train", root / "tiny.yaml", "--out", root / "runs", "--method", "cdcl", "--method", "single"
    )
    assert result.exit_code == 0, result.output
    return root


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_train_writes_the_table(project):
    lines = (project / "runs" / "tiny.csv").read_text().splitlines()
    assert lines[0] == "method,dataset,seed,steps,miou"
    assert [line.split(",")[:2] for line in lines[1:]] == [[m, c] for m in ("cdcl", "single") for c in CITIES]


def test_a_run_is_published_as_a_folder_that_predicts_alike(project, tmp_path):
    folder = project / "runs" / "tiny" / "cdcl-seed0"
    (tmp_path / "measured.md").write_text("With mirror images: 12.3.\n")
    terms = ["--name", "streets", "--licence", "Research only.", "--notes", tmp_path / "measured.md"]
    terms += ["--data-licence", "sunvale=free = free"]
    result = run("publish", folder, "--folder", tmp_path / "model", *terms)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# streets" in card
    assert "license_link: LICENSE" in card
    assert "Research only." in card
    assert (tmp_path / "model" / "LICENSE").read_text() == "Research only.\n"
    assert "| northport | 11 | 64x32 |" in card
    assert "| val | free = free |\n" in card
    assert "## Notes\n\nWith mirror images: 12.3.\n" in card
    assert (tmp_path / "model" / "branches" / "sunvale" / "branch.safetensors").is_file()
    Image.new("RGB", (64, 32), (90, 120, 60)).save(tmp_path / "photo.png")
    pictures = []
    for name, model in (("a", folder), ("b", tmp_path / "model")):
        arguments = ["--model", model, "--dataset", "sunvale", "--ids", "train", "--out", tmp_path / name]
        assert run("predict", tmp_path / "photo.png", *arguments).exit_code == 0
        pictures.append((tmp_path / name / "photo.png").read_bytes())
    assert pictures[0] == pictures[1]
    for wrong in (["--data-licence", "elsewhere=free"], ["--notes", tmp_path / "absent.md"]):
        result = run("publish", folder, "--folder", tmp_path / "other", *wrong)
        assert result.exit_code == 1
        assert result.output.startswith("error:")
        assert not (tmp_path / "other").exists()
    assert run("publish", folder).exit_code == 2
    assert run("publish", folder, "city/net", "--folder", tmp_path).exit_code == 2


def test_a_branch_is_evaluated_on_another_dataset(project):
    there = project / "data" / "northport"
    command = ["evaluate", project / "runs" / "tiny" / "cdcl-seed0", "--on", there, "--branch", "northport"]
    own = run("evaluate", project / "runs" / "tiny" / "single-seed0" / "northport").output
    assert "mean IoU" in own
    plain, recalibrated = run(*command), run(*command, "--recalibrate")
    assert plain.exit_code == recalibrated.exit_code == 0
    assert "mean IoU" in plain.output
    assert plain.output != recalibrated.output
    single = ["evaluate", project / "runs" / "tiny" / "single-seed0" / "northport", "--on", there]
    assert run(*single).output.split("mean IoU")[1] == own.split("mean IoU")[1]


def test_branches_on_another_dataset_are_checked(project):
    folder, there = project / "runs" / "tiny" / "cdcl-seed0", project / "data" / "northport"
    result = run("evaluate", folder, "--on", there)
    assert result.exit_code == 1
    assert "say which one to use with --branch" in result.output
    result = run("evaluate", folder, "--on", there, "--branch", "sunvale")
    assert result.exit_code == 1
    assert "no label map between them" in " ".join(result.output.split())
    assert run("evaluate", folder, "--recalibrate").exit_code == 2


def test_the_folder_of_the_runs_datasets_is_refused_beside_another_dataset(project):
    folder, there = project / "runs" / "tiny" / "cdcl-seed0", project / "data" / "northport"
    result = run("evaluate", folder, "--on", there, "--branch", "northport", "--data", project / "data")
    assert result.exit_code == 2
    assert "leave out --data" in " ".join(result.output.replace("│", "").split())


@pytest.mark.ddp
def test_train_in_two_processes_writes_one_table(project, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "dabnn.cli", "train", project / "tiny.yaml", "--out", tmp_path]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mIoU %") == 1
    assert len((tmp_path / "tiny.csv").read_text().splitlines()) == 1 + len(CITIES)


def test_data_check_reports_what_is_wrong(project, tmp_path):
    good = run("data", "check", "folder", project / "data" / "sunvale")
    assert good.exit_code == 0, good.output
    assert "4 samples, 64x32 (4), 0 problems" in " ".join(good.output.split())
    shutil.copytree(project / "data" / "sunvale", tmp_path / "broken")
    label = next((tmp_path / "broken" / "labels" / "val").iterdir())
    label.write_bytes(label.read_bytes()[:60])
    bad = run("data", "check", "folder", tmp_path / "broken", "--split", "val")
    assert bad.exit_code == 1
    assert f"{label} cannot be decoded" in bad.output
    unknown = run("data", "check", "ade20k", tmp_path)
    assert unknown.exit_code == 1
    assert "readers for folder" in unknown.output


def test_evaluate_prints_every_class(project):
    result = run("evaluate", project / "runs" / "tiny" / "cdcl-seed0")  # it knows where its data was
    assert result.exit_code == 0, result.output
    for label in ("mean IoU", "pixel accuracy", *ToyStreets("sunvale").classes):
        assert label in result.output


def test_evaluate_in_windows_at_several_sizes(project):
    plain = run("evaluate", project / "runs" / "tiny" / "cdcl-seed0")
    views = ("--scale", 0.5, "--scale", 1, "--flip", "--window", 32, 32)
    result = run("evaluate", project / "runs" / "tiny" / "cdcl-seed0", *views)
    assert result.exit_code == 0, result.output
    assert "mean IoU" in result.output
    assert result.output != plain.output


def test_evaluate_writes_tables_and_what_they_were_made_with(project, tmp_path):
    arguments = ("--scale", 0.5, "--flip", "--out", tmp_path / "out" / "here")
    result = run("evaluate", project / "runs" / "tiny" / "cdcl-seed0", *arguments)
    assert result.exit_code == 0, result.output
    table, text, made = (tmp_path / "out" / "here" / f"evaluation.{end}" for end in ("csv", "md", "json"))
    assert [f"written to {file}" in result.output for file in (table, text, made)] == [True] * 3
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for name in CITIES:
        assert [line[2] for line in lines if line[:2] == [name, "iou"]] == list(ToyStreets(name).classes)
        (miou,) = (line[3] for line in lines if line[:2] == [name, "miou"])
        assert f"# {name}" in text.read_text()
        assert f"| mean IoU | {miou} |" in text.read_text()
        assert miou in result.output
    record = json.loads(made.read_text())
    assert "torch" in record["environment"]
    assert record["options"]["scale"] == [0.5]
    assert record["options"]["flip"] is True


def test_notes_of_label_maps_are_printed_and_written(project, tmp_path):
    folder = shutil.copytree(project / "runs" / "tiny" / "single-seed0" / "northport", tmp_path / "run")
    there = shutil.copytree(project / "data" / "sunvale", tmp_path / "there")
    config = folder / "model" / "config.json"
    for file, space in ((config, "camvid"), (there / "classes.json", "cityscapes")):
        content = json.loads(file.read_text())
        entry = content.get("datasets", {"northport": content})["northport"]
        entry |= {"classes": load_space(space).classes, "palette": load_space(space).palette}
        file.write_text(json.dumps(content))
    result = run("evaluate", folder, "--on", there, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    note = "No class of branch 'northport' is mapped to: wall, traffic light, terrain, truck"
    assert note in result.output
    assert note in (tmp_path / "out" / "evaluation.md").read_text()
    assert note in (tmp_path / "out" / "evaluation.json").read_text()
    assert ",iou,wall,0.00,no class is mapped to it\n" in (tmp_path / "out" / "evaluation.csv").read_text()


def test_predict_averages_over_the_views_that_evaluate_has(project, tmp_path):
    photo = next((project / "data" / "sunvale" / "images" / "val").iterdir())
    arguments = ["--run", project / "runs" / "tiny" / "cdcl-seed0", "--dataset", "sunvale"]
    arguments += ["--ids", "train"]
    pictures = []
    for views in ((), ("--scale", 0.5, "--scale", 1, "--flip"), ("--window", 32, 32)):
        result = run("predict", photo, *arguments, *views, "--out", tmp_path)
        assert result.exit_code == 0, result.output
        pictures.append((tmp_path / photo.name).read_bytes())
    assert len(set(pictures)) == 3
    assert run("predict", photo, *arguments, "--window", 0, 32).exit_code == 2


def test_predict_writes_overlays(project, tmp_path):
    photo = tmp_path / "street.jpg"
    Image.new("RGB", (70, 45), (90, 120, 150)).save(photo)
    arguments = ["--run", project / "runs" / "tiny" / "cdcl-seed0", "--out", tmp_path / "out"]
    result = run("predict", photo, *arguments, "--dataset", "sunvale")
    assert result.exit_code == 0, result.output
    file = tmp_path / "out" / "street_overlay.png"
    assert result.output == f"{file} (sunvale)\n"
    file.unlink()
    result = run("predict", photo, *arguments)
    assert result.output in [f"{file} ({name})\n" for name in CITIES]
    assert file.exists()


def test_ids_need_a_dataset_when_there_are_several(project, tmp_path):
    photo = tmp_path / "street.png"
    Image.new("RGB", (64, 32)).save(photo)
    result = run("predict", photo, "--ids", "train", "--run", project / "runs" / "tiny" / "cdcl-seed0")
    assert result.exit_code == 1
    for name in CITIES:
        assert name in result.output


def test_predict_asks_which_ids_and_can_keep_the_size_of_the_image(project, tmp_path):
    photo = tmp_path / "street.png"
    Image.effect_noise((128, 64), 90).save(photo)
    arguments = ["predict", photo, "--run", project / "runs" / "tiny" / "cdcl-seed0", "--dataset", "sunvale"]
    assert run(*arguments, "--ids", "colour").exit_code == 2
    result = run(*arguments, "--ids", "label")
    assert (result.exit_code, result.output.count("--ids train")) == (1, 1)
    pictures = []
    for size in ((), ("--full-size",)):
        result = run(*arguments, "--ids", "train", *size, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        pictures.append(Image.open(tmp_path / "out" / "street.png"))
    assert pictures[0].size == pictures[1].size == (128, 64)
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_list_names_methods_datasets_and_architectures():
    output = run("list").output
    for name in ("cdcl", "single", "northport", "PSPNet"):
        assert name in output


@pytest.mark.parametrize(
    "arguments",
    [("train", "absent.yaml"), ("evaluate", "absent"), ("predict", "absent.jpg", "--run", "absent")],
    ids=lambda arguments: arguments[0],
)
def test_mistakes_end_with_one_readable_line(arguments):
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("error:")
    assert "absent" in result.output
    assert "Traceback" not in result.output


def test_brackets_in_names_are_printed_as_they_are(project, tmp_path):
    photo = tmp_path / "[red]street[/x].jpg"
    photo.parent.mkdir(parents=True, exist_ok=True)
    picture = tmp_path / "a[bold].jpg"
    Image.new("RGB", (64, 32)).save(picture)
    folder = project / "runs" / "tiny" / "cdcl-seed0"
    result = run(
        "predict", picture, photo, "--run", folder, "--dataset", "sunvale", "--out", tmp_path / "out"
    )
    assert result.exit_code == 1
    assert f"there is no image {photo}" in result.output
    result = run("predict", picture, "--run", folder, "--dataset", "sunvale", "--out", tmp_path / "out")
    assert "a[bold]_overlay.png" in result.output


def test_experiments_with_dots_in_their_names_keep_tables_apart(project, tmp_path):
    text = (project / "tiny.yaml").read_text().replace("data_dir: data", f"data_dir: {project / 'data'}")
    for name in ("lr0.1", "lr0.2"):
        (tmp_path / "tiny.yaml").write_text(text.replace("name: tiny", f"name: {name}"))
        assert run("train", tmp_path / "tiny.yaml", "--out", tmp_path / "runs").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_file()) == [
        "lr0.1.csv",
        "lr0.1.json",
        "lr0.2.csv",
        "lr0.2.json",
    ]


def test_an_output_folder_that_is_a_file_is_named(project, tmp_path):
    (tmp_path / "runs").write_text("")
    result = run("train", project / "tiny.yaml", "--out", tmp_path / "runs")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("error:")


# torch before 2.13 warns of the memory that its `torch.export.load` reads a file into.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_export_writes_a_file_that_computes_the_same(project, tmp_path):
    folder = project / "runs" / "tiny" / "cdcl-seed0"
    options = ("--dataset", "sunvale", "--height", 32, "--width", 64)
    result = run("export", folder, tmp_path / "net.pt2", *options)
    assert result.exit_code == 0, result.output
    network = torch.export.load(tmp_path / "net.pt2").module()
    assert network(torch.randn(3, 3, 32, 64)).shape == (3, len(ToyStreets("sunvale").classes), 32, 64)
    for file, dataset, message in (
        ("net.tflite", "sunvale", "must end in"),
        ("net.pt2", "x", "unknown dataset 'x'"),
    ):
        result = run("export", folder, tmp_path / file, "--dataset", dataset)
        assert result.exit_code == 1
        assert message in result.output


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_every_command_takes_a_run_and_a_folder_alike(project, tmp_path, kind):
    run_folder = project / "runs" / "tiny" / "cdcl-seed0"
    source = run_folder if kind == "run" else run_folder / "model"
    there = project / "data" / "sunvale"
    photo = next((there / "images" / "val").iterdir())
    for arguments in (
        ("evaluate", source, "--on", there, "--branch", "sunvale"),
        ("predict", photo, "--model", source, "--dataset", "sunvale", "--out", tmp_path / "pictures"),
        ("export", source, tmp_path / "net.pt2", "--dataset", "sunvale", "--height", 32, "--width", 64),
        ("publish", source, "--folder", tmp_path / "published"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "published").iterdir()} == {
        "README.md",
        "branches",
        "config.json",
        "model.safetensors",
    }


def test_a_name_of_the_zoo_is_measured_and_exported(tmp_path):
    there = tmp_path / "there"
    write_folder({"val": ToyStreets("sunvale", "val", size=(32, 64), length=1)}, there)
    space = load_space("camvid")
    content = {"classes": space.classes, "palette": space.palette, "ignore_index": 255}
    (there / "classes.json").write_text(json.dumps(content))
    name = "cdcl-pspnet-lite0"

    measured = run("evaluate", name, "--on", there, "--branch", "camvid")
    exported = run("export", name, tmp_path / "net.pt2", "--dataset", "camvid", "--height", 64, "--width", 64)
    own = run("evaluate", name)

    assert "mean IoU" in measured.output, measured.output
    assert exported.exit_code == 0, exported.output
    assert own.exit_code == 1
    assert "say with --on FOLDER what to measure it on" in own.output
