"""Models on the Hub, against a server of our own: push, pull, revisions, the cache, and all that can fail."""

from __future__ import annotations

import os
import subprocess
import sys

import hub_server
import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import ModelCard, constants

import dabnn
from dabnn.errors import CheckpointError, HubError
from dabnn.hub import write_folder
from dabnn.models import DatasetInfo, ModelInfo
from dabnn.pretrained import CONFIG, WEIGHTS, describe

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
REPO = "city/network"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_server.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
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
    assert sorted(hub.downloads) == [CONFIG, WEIGHTS]  # once each, and nothing else
    (files,) = [hub.repos[REPO][hub.heads[REPO]["main"]]]
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


def test_what_is_known_of_a_model_is_read_without_its_weights(hub, model, info):
    dabnn.push_to_hub(model, REPO, info)
    assert dabnn.get_pretrained_cfg(REPO) == describe(model, info)
    assert hub.downloads == [CONFIG]


def test_the_file_of_one_dataset_fits_a_fresh_base(hub, model, info, tmp_path):
    dabnn.push_to_hub(model, REPO, info)
    files = hub.repos[REPO][hub.heads[REPO]["main"]]
    for name in ("branch.json", "branch.safetensors"):
        (tmp_path / name).write_bytes(files[f"branches/south/{name}"])
    base = dabnn.from_pretrained(REPO)
    dabnn.remove_dataset(base, "south")
    assert dabnn.load_dataset(base, tmp_path) == "south"
    assert torch.equal(logits(base, "south"), logits(model, "south"))


def test_a_folder_holds_the_branches_of_its_own_datasets_only(model, info, tmp_path):
    write_folder(model, tmp_path, info)
    (tmp_path / "branches" / "old").mkdir()
    write_folder(model, tmp_path, info)
    assert sorted(path.name for path in (tmp_path / "branches").iterdir()) == ["north", "south"]


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
        HubError, match="was not downloaded before, and the Hugging Face Hub cannot be reached"
    ):
        dabnn.from_pretrained("city/other")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"no folder and no repository|failed on"),
        (403, r"is gated: accept its terms at https://huggingface.co/city/network"),
        (404, r"there is no folder and no repository city/network on the Hugging Face Hub"),
    ],
)
def test_a_repository_that_is_not_given_says_why(hub, model, status, message):
    dabnn.push_to_hub(model, REPO)
    hub.status[REPO] = status
    with pytest.raises(HubError, match=message):
        dabnn.from_pretrained(REPO)


def test_pushing_without_permission_says_so(hub, model):
    hub.status[REPO] = 401
    with pytest.raises(HubError, match=REPO):
        dabnn.push_to_hub(model, REPO)


def test_a_download_that_breaks_off_leaves_nothing_that_would_be_loaded(hub, model):
    dabnn.push_to_hub(model, REPO)
    hub.cut.add(WEIGHTS)
    with pytest.raises(HubError, match="the Hugging Face Hub failed on city/network"):
        dabnn.from_pretrained(REPO)
    hub.cut.clear()
    assert torch.equal(logits(dabnn.from_pretrained(REPO), "north"), logits(model, "north"))


def test_weights_that_were_changed_on_the_hub_are_refused(hub, model):
    dabnn.push_to_hub(model, REPO)
    files = hub.repos[REPO][hub.heads[REPO]["main"]]
    changed = bytearray(files[WEIGHTS])
    changed[-1] ^= 1
    hub.commit(REPO, "main", {WEIGHTS: bytes(changed)})
    with pytest.raises(CheckpointError, match="was changed or cut off"):
        dabnn.from_pretrained(REPO)


def test_a_repository_of_pickles_is_refused(hub):
    hub.repos[REPO], hub.heads[REPO] = {}, {}
    hub.commit(REPO, "main", {"config.json": b'{"architecture": "x"}', "pytorch_model.bin": b"x"})
    with pytest.raises(CheckpointError, match="is not of a model of dabnn"):
        dabnn.from_pretrained(REPO)
    assert "pytorch_model.bin" not in hub.downloads


def test_the_environment_variables_of_the_hub_are_followed(hub, model, tmp_path):
    dabnn.push_to_hub(model, REPO)
    code = f"import dabnn; print(dabnn.dataset_names(dabnn.from_pretrained({REPO!r})))"
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    for offline in ("0", "1"):
        environment = os.environ | settings | {"HF_HUB_OFFLINE": offline}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == "('north', 'south')", done.stderr
