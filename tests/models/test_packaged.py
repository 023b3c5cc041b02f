"""The weights inside the package: complete, small, and what the names of the zoo promise.

Each is checked once there is one; a small folder of our own shows that the check works without.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import dabnn
from dabnn.models import registry
from dabnn.models.hub.card import model_card
from dabnn.models.hub.publish import write_folder
from dabnn.models.registry import Entry, entries
from dabnn.models.stored.folder import describe, info_of, read_config
from dabnn.models.stored.source import source_of

PACKAGE = Path(dabnn.__file__).parent
MOST_BYTES = 40 * 2**20
PACKAGED = [entry for entry in entries().values() if entry.folder is not None]


@pytest.fixture
def _offline(monkeypatch):
    def never(*arguments):
        pytest.fail("weights of the package were looked for on a network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)


def check(entry):
    """What holds for each entry with a folder in the package."""
    folder = PACKAGE / entry.folder
    assert (folder / "LICENSE").read_text().strip()
    info = dabnn.get_pretrained_cfg(entry.alias)
    assert info.name == entry.name
    assert (folder / "README.md").read_text() == model_card(info), "notes belong into config.json"
    assert entry.datasets == entry.arguments == {}, "config.json says it already"
    loaded, built = dabnn.from_pretrained(entry.alias), dabnn.create_model(entry.alias)
    assert info_of(loaded) == info
    widths = {name: len(dataset.classes) for name, dataset in info.datasets.items()}
    for model in (loaded, built):
        assert dabnn.dataset_names(model) == tuple(widths)
    for name, width in widths.items():
        plain = [dabnn.extract_dataset(model, name).eval() for model in (loaded, built)]
        assert type(plain[0]) is type(plain[1])
        assert source_of(plain[0]) == source_of(plain[1])
        for model in plain:
            with torch.no_grad():
                assert model(torch.zeros(1, 3, 64, 96)).shape == (1, width, 64, 96)
        check_branch(entry, name)
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (loaded, built)]
    assert shapes[0] == shapes[1]


def check_branch(entry, name):
    """The file of one dataset fits a network that never had it."""
    whole, base = (dabnn.from_pretrained(entry.alias) for _ in range(2))
    dabnn.remove_dataset(base, name)
    assert dabnn.load_dataset(base, PACKAGE / entry.folder / "branches" / name) == name
    images, logits = torch.rand(1, 3, 64, 96), []
    for model in (whole, base):
        with torch.no_grad(), dabnn.use_dataset(model, name):
            logits.append(model(images))
    assert torch.equal(*logits)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("entry", PACKAGED, ids=lambda entry: entry.alias)
def test_weights_in_the_package_are_what_their_name_promises_without_a_network(entry):
    check(entry)


def test_all_weights_in_the_package_are_small():
    files = [file for entry in PACKAGED for file in (PACKAGE / entry.folder).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An entry whose network differs from what the architecture builds by itself."""
    model = dabnn.create_model(
        "pspnet_lite0_os16", dataset_names=["a", "b"], num_classes=[5, 3], channels=16, enlarge=2
    )
    entry = Entry("pspnet_lite0_os16.own", "own", folder=str(tmp_path))
    monkeypatch.setattr(registry, "entries", lambda: {entry.name: entry})  # the card names its alias
    info = replace(describe(model), name=entry.name, licence="Research only.", notes="Small.")
    write_folder(model, tmp_path, info, half=True)
    entry = replace(entry, sha256=read_config(tmp_path).sha256)
    return entry


@pytest.mark.usefixtures("_offline")
def test_a_folder_of_our_own_passes(own):
    check(own)


def test_a_folder_without_terms_and_one_of_another_name_do_not(own, monkeypatch):
    other = replace(own, name="pspnet_lite0_os16.other")
    with monkeypatch.context() as patch:
        patch.setattr(registry, "entries", lambda: {other.name: other})
        with pytest.raises(AssertionError, match="other"):
            check(other)
    (Path(own.folder) / "LICENSE").unlink()
    with pytest.raises(FileNotFoundError):
        check(own)
