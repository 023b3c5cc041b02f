"""Models on the Hub, against a server of our own: push, pull, revisions, the cache, and all that can fail."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hub_server
import pytest
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load, load_file
from typer.testing import CliRunner

import dabnn
from dabnn.cli import app
from dabnn.errors import CheckpointError, HubError
from dabnn.models import DatasetInfo, ModelInfo, registry
from dabnn.models.hub.publish import write_folder
from dabnn.models.registry import Entry
from dabnn.models.stored.folder import CONFIG, WEIGHTS, describe

# Of the Hub's client, when it sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
REPO = "city/network"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_server.in_place_of_the_hub(tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    plain = smp.FPN("tu-test_resnet", encoder_weights=None, classes=5)
    return dabnn.convert_to_dataset_aware(plain, dataset_names=["north", "south"], num_classes=[5, 3]).eval()


@pytest.fixture(scope="module")
def info():
    datasets = {
        "north": DatasetInfo(tuple("abcde"), metrics={"miou": 50.0}, split="val"),
        "south": DatasetInfo(tuple("xyz"), metrics={"miou": 40.25}, split="val"),
    }
    return ModelInfo(datasets, name="fpn.test", licence="Research only.", recipe="SGD.")


def publish(*arguments):
    return CliRunner().invoke(app, ["publish", *map(str, arguments)], catch_exceptions=False)


def content(folder):
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def logits(model, name):
    with torch.no_grad(), dabnn.use_dataset(model, name):
        return model(IMAGES)


def test_a_pushed_model_comes_back_with_the_same_logits_and_card(hub, model, info):
    address = dabnn.push_to_hub(model, REPO, info)
    assert address.startswith(f"{hub.endpoint}/{REPO}/commit/")
    for name in (REPO, f"hf-hub:{REPO}"):
        again = dabnn.from_pretrained(name)
        assert all(torch.equal(logits(again, d), logits(model, d)) for d in info.datasets)
        assert again.dabnn_info == describe(model, info)
    assert sorted(hub.downloads) == [(CONFIG, 0), (WEIGHTS, 0)]  # once each, and nothing else
    files = hub.files(REPO)
    assert hub_server.sha256(files[WEIGHTS]) in hub.uploads
    assert {f"branches/{d}/branch.safetensors" for d in info.datasets} < set(files)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("dabnn", "image-segmentation")
    assert [(r.dataset_name, r.metric_value) for r in card.data.eval_results] == [
        ("north", 50.0),
        ("south", 40.25),
    ]
    assert "| south | 3 | 40.2 | val |" in card.text
    assert f'dabnn.from_pretrained("{REPO}")' in card.text
    assert "Research only." in card.text


def test_a_model_is_pushed_in_private_in_half_precision_and_with_a_message(hub, model, info):
    dabnn.push_to_hub(model, REPO, info, private=True, half=True, message="First try")
    assert hub.private == {REPO}
    assert "First try" in hub.messages
    stored = {tensor.dtype for name, tensor in load(hub.files(REPO)[WEIGHTS]).items() if "bias" in name}
    assert stored == {torch.half}
    dabnn.push_to_hub(model, "me/open", info)
    assert hub.private == {REPO}


def test_what_is_known_of_a_model_is_read_without_its_weights(hub, model, info):
    dabnn.push_to_hub(model, REPO, info)
    assert dabnn.get_pretrained_cfg(REPO) == describe(model, info)
    assert hub.downloads == [(CONFIG, 0)]


def test_the_file_of_one_dataset_fits_a_fresh_base(hub, model, info, tmp_path):
    dabnn.push_to_hub(model, REPO, info)
    files = hub.files(REPO)
    for name in ("branch.json", "branch.safetensors"):
        (tmp_path / name).write_bytes(files[f"branches/south/{name}"])
    base = dabnn.from_pretrained(REPO)
    dabnn.remove_dataset(base, "south")
    assert dabnn.load_dataset(base, tmp_path) == "south"
    assert torch.equal(logits(base, "south"), logits(model, "south"))


def test_branches_in_half_precision_fit_a_fresh_base_bit_for_bit(model, info, tmp_path):
    write_folder(model, tmp_path / "model", info, half=True)
    whole, base = dabnn.from_pretrained(tmp_path / "model"), dabnn.from_pretrained(tmp_path / "model")
    for name in ("south", "north"):
        if len(dabnn.dataset_names(base)) > 1:
            dabnn.remove_dataset(base, name)
        dabnn.load_dataset(base, tmp_path / "model" / "branches" / name)
        assert torch.equal(logits(base, name), logits(whole, name))
    stored = load_file(tmp_path / "model" / "branches" / "south" / "branch.safetensors")
    kinds = {"running" if "running" in key else key.rpartition(".")[2]: t.dtype for key, t in stored.items()}
    assert kinds["weight"] == kinds["bias"] == torch.half
    assert kinds["running"] == torch.float32


def test_a_published_folder_holds_one_model_only(model, info, tmp_path):
    write_folder(model, tmp_path / "model", info)
    one = dabnn.from_pretrained(tmp_path / "model")
    dabnn.remove_dataset(one, "north")
    write_folder(one, tmp_path / "model", replace(one.dabnn_info, datasets={"south": info.datasets["south"]}))
    assert set(content(tmp_path / "model")) == {
        "LICENSE",
        "README.md",
        "branches/south/branch.json",
        "branches/south/branch.safetensors",
        CONFIG,
        WEIGHTS,
    }
    write_folder(one, tmp_path / "model", ModelInfo({"south": info.datasets["south"]}))
    assert "LICENSE" not in content(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("kind", ["project", "clone", "file"])
def test_a_folder_with_other_files_is_not_touched(model, info, tmp_path, kind):
    folder, file = tmp_path / "mine", tmp_path / "mine" / "branches" / "paper" / "draft.tex"
    if kind == "clone":
        write_folder(model, folder, info)
        file = folder / ".git" / "HEAD"
    if kind == "file":
        folder.write_text("mine")
        expected = "is a file: choose a folder"
    else:
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        (folder / "README.md").write_text("mine")
        held = {"project": "README.md, branches", "clone": r"\.git"}[kind]
        expected = f"would be replaced as a whole, but holds {held}, which dabnn did not write: choose a new"
    before = content(tmp_path)
    with pytest.raises(CheckpointError, match=expected):
        write_folder(model, folder, info)
    with pytest.raises(CheckpointError, match=expected):
        dabnn.save_pretrained(model, folder, info)
    assert content(tmp_path) == before


def test_files_can_be_read_by_whom_new_files_can_be_read(model, info, tmp_path):
    (tmp_path / "new").touch()
    write_folder(model, tmp_path / "model", info)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert modes == {stat.S_IMODE((tmp_path / "new").stat().st_mode)}


def test_a_saved_model_is_published_as_it_is(hub, model, info, tmp_path):
    folder = tmp_path / "model"
    write_folder(model, folder, info, half=True)
    (folder / "README.md").write_text("A card of my own.")
    assert publish(folder, REPO).exit_code == 0
    assert hub.files(REPO) == content(folder)
    assert publish(folder, "--folder", tmp_path / "copy").exit_code == 0
    assert content(tmp_path / "copy") == content(folder)
    assert publish(REPO, "city/again").exit_code == 0
    assert hub.files("city/again") == content(folder)
    result = publish(folder, REPO, "--name", "other")
    assert result.exit_code == 1
    assert "is a saved model, which is published as it is: leave out --name" in result.output


@pytest.mark.parametrize("name", ["cdcl-pspnet-lite0", "cdcl-pspnet-r18"])
def test_a_network_of_the_package_is_published_as_it_is(hub, name):
    assert publish(name, REPO).exit_code == 0
    assert hub.files(REPO) == content(Path(dabnn.__file__).parent / "models" / "weights" / name)


def test_what_a_saved_model_lacks_is_added_when_it_is_published(hub, model, info, tmp_path):
    dabnn.save_pretrained(model, tmp_path / "model", info, half=True)
    assert publish(tmp_path / "model", REPO).exit_code == 0
    files = hub.files(REPO)
    assert files.items() > content(tmp_path / "model").items()
    assert b"Research only." in files["README.md"]
    write_folder(model, tmp_path / "whole", info, half=True)
    for name in ("branches/north/branch.safetensors", "branches/south/branch.safetensors", "LICENSE"):
        assert files[name] == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("part", [WEIGHTS, "branches/south/branch.safetensors"])
def test_a_damaged_folder_is_not_published(hub, model, info, tmp_path, part):
    write_folder(model, tmp_path / "model", info)
    (tmp_path / "model" / part).write_bytes(b"")
    result = publish(tmp_path / "model", REPO)
    assert result.exit_code == 1
    assert "changed or cut off after it was" in result.output
    assert REPO not in hub.repos


def test_nothing_of_an_earlier_model_is_left_in_a_repository(hub, model, info):
    dabnn.push_to_hub(model, REPO, info)
    hub.commit(REPO, "main", {"street.jpg": b"a picture of mine"})
    dabnn.push_to_hub(smaller(), REPO)
    assert set(hub.files(REPO)) == {
        "README.md",
        "branches/east/branch.json",
        "branches/east/branch.safetensors",
        CONFIG,
        WEIGHTS,
        "street.jpg",
    }
    assert dabnn.dataset_names(dabnn.from_pretrained(REPO)) == ("east",)


def smaller():
    """Another model, of one dataset."""
    return dabnn.convert_to_dataset_aware(
        smp.FPN("tu-test_resnet", encoder_weights=None, classes=5), dataset_names=["east"], num_classes=[5]
    )


def test_revisions_are_written_and_read(hub, model, info):
    dabnn.push_to_hub(model, REPO, info)
    dabnn.push_to_hub(model, REPO, revision="v2")
    assert dabnn.from_pretrained(REPO).dabnn_info.name == "fpn.test"
    assert dabnn.from_pretrained(f"{REPO}@v2").dabnn_info.name == ""
    with pytest.raises(HubError, match="has no such revision"):
        dabnn.from_pretrained(f"{REPO}@v3")


def test_what_was_downloaded_is_found_without_a_network(hub, model, info, monkeypatch):
    dabnn.push_to_hub(model, REPO, info)
    dabnn.from_pretrained(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits(dabnn.from_pretrained(REPO), "north"), logits(model, "north"))
    with pytest.raises(
        HubError, match="was not downloaded wholly before, and the Hugging Face Hub cannot be reached"
    ):
        dabnn.from_pretrained("city/other")


def test_of_a_model_whose_config_alone_was_downloaded_the_weights_are_missing(hub, model, monkeypatch):
    dabnn.push_to_hub(model, REPO)
    dabnn.get_pretrained_cfg(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="was not downloaded wholly before"):
        dabnn.from_pretrained(REPO)


def test_a_name_of_the_zoo_is_downloaded_from_its_repository_and_is_no_other_model(
    hub, model, info, monkeypatch
):
    dabnn.push_to_hub(model, REPO, info)
    entry = Entry("fpn.test", "fpn", repo=REPO, sha256=hub_server.sha256(hub.files(REPO)[WEIGHTS]))
    monkeypatch.setattr(registry, "entries", lambda: {entry.name: entry})
    for name in ("fpn", "fpn.test"):
        assert torch.equal(logits(dabnn.from_pretrained(name), "north"), logits(model, "north"))
    assert dabnn.list_models(pretrained=True) == ["fpn.test"]
    dabnn.push_to_hub(smaller(), REPO)  # whoever may write there
    with pytest.raises(CheckpointError, match=r"holds other weights than this dabnn .* knows as fpn"):
        dabnn.from_pretrained("fpn")


def test_a_damaged_download_is_fetched_anew(hub, model):
    dabnn.push_to_hub(model, REPO)
    file = hub_cached(WEIGHTS)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert torch.equal(logits(dabnn.from_pretrained(REPO), "north"), logits(model, "north"))


def hub_cached(name):
    """The file of a repository in the cache, after it was loaded once."""
    dabnn.from_pretrained(REPO)
    (file,) = Path(constants.HF_HUB_CACHE).rglob(name)
    return file.resolve()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("unknown", "there is no folder and no repository city/network .*, or log in with `hf auth login`"),
        (
            "gated",
            "is gated: accept its terms at https://huggingface.co/city/network and log in with `hf auth",
        ),
        ("forbidden", "refuses access to city/network: check the rights of your token and your role in city"),
        ("missing", "there is no folder and no repository city/network on the Hugging Face Hub"),
        ("broken", "the Hugging Face Hub failed on city/network: .*500"),
    ],
)
def test_a_repository_that_is_not_given_says_why(hub, model, refused, message):
    dabnn.push_to_hub(model, REPO)
    hub.refused[REPO] = refused
    with pytest.raises(HubError, match=f"(?s){message}") as caught:
        dabnn.from_pretrained(REPO)
    assert "network, and HF_HUB_OFFLINE" not in str(caught.value)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("unknown", "write to city/network: log in with `hf auth login`, with a token that may"),
        ("forbidden", "refuses access to city/network: check the rights of your token and your role in city"),
    ],
)
def test_pushing_without_permission_says_what_to_do(hub, model, refused, message):
    hub.refused[REPO] = refused
    with pytest.raises(HubError, match=message):
        dabnn.push_to_hub(model, REPO)


def test_an_interrupted_download_goes_on_where_it_stopped(hub, model, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what arrives is kept in pieces of this size
    dabnn.push_to_hub(model, REPO)
    hub.cut[WEIGHTS] = 1
    assert torch.equal(logits(dabnn.from_pretrained(REPO), "north"), logits(model, "north"))
    first, second = (start for name, start in hub.downloads if name == WEIGHTS)
    assert first == 0
    assert 0 < second <= len(hub.files(REPO)[WEIGHTS]) // 2


def test_a_download_that_breaks_off_leaves_nothing_that_would_be_loaded(hub, model, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    dabnn.push_to_hub(model, REPO)
    hub.cut[WEIGHTS] = 1000
    with pytest.raises(HubError, match="the Hugging Face Hub failed on city/network"):
        dabnn.from_pretrained(REPO)
    hub.cut.clear()
    assert torch.equal(logits(dabnn.from_pretrained(REPO), "north"), logits(model, "north"))


def test_weights_that_were_changed_on_the_hub_are_refused(hub, model):
    dabnn.push_to_hub(model, REPO)
    changed = bytearray(hub.files(REPO)[WEIGHTS])
    changed[-1] ^= 1
    hub.commit(REPO, "main", {WEIGHTS: bytes(changed)})
    with pytest.raises(CheckpointError, match="was changed or cut off"):
        dabnn.from_pretrained(REPO)


@pytest.mark.parametrize("config", [{"config.json": b'{"architecture": "x"}'}, {}])
def test_a_repository_of_pickles_is_refused(hub, config):
    hub.create(REPO)
    hub.commit(REPO, "main", {**config, "pytorch_model.bin": b"x", "notes.txt": b"x"})
    found = ", ".join([*config, "notes.txt", "pytorch_model.bin"])
    message = (
        f"city/network holds no model of dabnn: model.safetensors is missing, there is {found}; "
        "pytorch_model.bin may run code when loaded, and dabnn does not read it: ask for weights as safe"
    )
    with pytest.raises(CheckpointError, match=message):
        dabnn.from_pretrained(REPO)
    assert "pytorch_model.bin" not in [name for name, _ in hub.downloads]


def test_a_repository_of_another_library_is_refused(hub):
    hub.create(REPO)
    hub.commit(REPO, "main", {"config.json": b'{"architecture": "x"}', WEIGHTS: b"x"})
    with pytest.raises(CheckpointError, match=r"config.json is not of a model of dabnn"):
        dabnn.from_pretrained(REPO)


@pytest.mark.parametrize("name", ["/models/streets", "./streets", "../streets", "~/streets", "runs/a/b"])
def test_a_path_without_a_folder_is_not_taken_for_a_repository(hub, name):
    with pytest.raises(CheckpointError, match=f"there is no folder {name}: check the path"):
        dabnn.from_pretrained(name)


def test_a_training_run_is_told_from_a_model(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({}))
    (tmp_path / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"make a model of it with `dabnn publish .* --folder NEW_FOLD"):
        dabnn.from_pretrained(tmp_path)


def test_the_environment_variables_of_the_hub_are_followed(hub, model, tmp_path):
    dabnn.push_to_hub(model, REPO)
    code = f"import dabnn; print(dabnn.dataset_names(dabnn.from_pretrained({REPO!r})))"
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    for offline in ("0", "1"):
        environment = os.environ | settings | {"HF_HUB_OFFLINE": offline}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "('north', 'south')", done.stderr
