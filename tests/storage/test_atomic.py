"""Files and folders are replaced as a whole, whenever the process ends."""

from __future__ import annotations

import copy
import os
import signal
import stat
import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

import dabnn
from dabnn.errors import CheckpointError
from dabnn.storage.atomic import folder_written_atomically, standing, written_atomically

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network():
    plain = smp.FPN("tu-test_resnet", encoder_weights=None, classes=5)
    return dabnn.convert_to_dataset_aware(plain, dataset_names=["north", "south"], num_classes=[5, 3]).eval()


def logits(model, name):
    with torch.no_grad(), dabnn.use_dataset(model, name):
        return model(IMAGES)


def test_a_file_can_be_read_by_whom_other_new_files_can_be_read(tmp_path):
    (tmp_path / "new").touch()
    with written_atomically(tmp_path / "weights") as temporary:
        save_file({"a": torch.zeros(1)}, temporary)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "weights")]
    assert modes[0] == modes[1]


def fill(folder, error=None):
    """Replace a folder that holds a file ``old``."""
    with folder_written_atomically(folder, ["old"]) as new:
        (new / "new").write_text("new")
        if error is not None:
            raise error


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    yield tmp_path / "a"
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a", "a/old"]


def test_a_folder_that_cannot_be_written_stays_as_it_was(folder):
    with pytest.raises(CheckpointError, match=r"could not write the folder .*: No space left"):
        fill(folder, OSError("No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        fill(folder, KeyboardInterrupt())


def test_a_folder_that_cannot_take_its_name_stays_as_it_was(folder, monkeypatch):
    rename = os.replace

    def replace(source, target):
        if source.name == ".a.tmp":
            raise OSError("Input/output error")
        rename(source, target)

    monkeypatch.setattr("dabnn.storage.atomic.os.replace", replace)
    with pytest.raises(CheckpointError, match="Input/output error; an older one of that name is untouched"):
        fill(folder)


def test_a_folder_is_written_through_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    with folder_written_atomically(tmp_path / "near", []) as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "near").is_symlink()
    assert (tmp_path / "far" / "new").read_text() == "new"
    assert standing(tmp_path / "near") == tmp_path / "near"


KILLED = """
import os, signal, sys
import dabnn, dabnn.storage.atomic
from dabnn.branches.save_load import save_dataset
from dabnn.models.stored.folder import save_pretrained
kind, old, new, moment = sys.argv[1:]
model = dabnn.from_pretrained(new)
count, rename = 0, os.replace
def replace(*paths):
    global count
    count += 1
    if count == int(moment):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
os.replace = replace
save_pretrained(model, old) if kind == "model" else save_dataset(model, "south", old)
"""


@pytest.mark.parametrize("moment", [1, 2, 3])
@pytest.mark.parametrize("kind", ["model", "branch"])
def test_a_process_killed_while_it_replaces_files_leaves_the_old_or_the_new_ones(tmp_path, kind, moment):
    old = network()
    models = {"old": old, "new": copy.deepcopy(old)}
    with torch.no_grad():  # the shared weights are the same, so that the branches fit both
        for parameter in dabnn.branch_parameters(models["new"], "south"):
            parameter.add_(1)
    for name, model in models.items():
        dabnn.save_pretrained(model, tmp_path / name)
    target = tmp_path / "old"
    if kind == "branch":
        target = tmp_path / "branch"
        dabnn.save_dataset(models["old"], "south", target)
    arguments = [sys.executable, "-c", KILLED, kind, target, tmp_path / "new", str(moment)]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
    assert done.returncode == (0 if moment == 3 else -signal.SIGKILL), done.stderr  # there are two renames
    for _ in range(2):  # and once more after the next write
        if kind == "model":
            found = dabnn.from_pretrained(target)
        else:
            found = dabnn.from_pretrained(tmp_path / "new")
            dabnn.load_dataset(found, target)
        expected = models["new" if moment == 3 else "old"]
        assert torch.equal(logits(found, "south"), logits(expected, "south"))
        moment = 3
        dabnn.save_pretrained(models["new"], target) if kind == "model" else dabnn.save_dataset(
            models["new"], "south", target
        )
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
