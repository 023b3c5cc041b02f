from __future__ import annotations

import json

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch import nn
from toy_models import ConvNet, TwiceNamed, assert_equal, aware, image_batch, on, randomise

import dabnn
from dabnn.branches.save_load import fingerprint
from dabnn.errors import CheckpointError


def net(seed: int = 0, names: tuple[str, ...] = ("a", "b"), classes: tuple[int, ...] = (5, 3)) -> nn.Module:
    torch.manual_seed(seed)
    model = dabnn.convert_to_dataset_aware(
        ConvNet(), dataset_names=names, num_classes=classes, classifier="classifier"
    )
    torch.manual_seed(seed + 100)
    return randomise(model).eval()


def base_of(model: nn.Module, names: tuple[str, ...], classes: tuple[int, ...]) -> nn.Module:
    """Another model with the shared weights of ``model`` and branches of its own."""
    other = net(7, names, classes)
    with torch.no_grad():
        for mine, theirs in zip(dabnn.shared_parameters(other), dabnn.shared_parameters(model), strict=True):
            mine.copy_(theirs)
    return other


def test_a_branch_moves_to_another_network_with_the_same_shared_weights(tmp_path) -> None:
    model = net()
    dabnn.save_dataset(model, "b", tmp_path / "b")
    fresh = base_of(model, ("x", "y", "z"), (2, 4, 6))
    before = on(fresh, "y", image_batch())
    assert dabnn.load_dataset(fresh, tmp_path / "b") == "b"
    assert dabnn.dataset_names(fresh) == ("x", "y", "z", "b")
    assert_equal(on(fresh, "b", image_batch()), on(model, "b", image_batch()))
    assert_equal(on(fresh, "y", image_batch()), before)


def test_a_branch_of_the_same_name_is_replaced(tmp_path) -> None:
    model = net()
    dabnn.save_dataset(model, "b", tmp_path)
    fresh = base_of(model, ("b", "a"), (3, 5))
    dabnn.load_dataset(fresh, tmp_path)
    assert dabnn.dataset_names(fresh) == ("b", "a")
    assert_equal(on(fresh, "b", image_batch()), on(model, "b", image_batch()))


def test_the_file_has_the_keys_of_the_plain_model_and_is_small(tmp_path) -> None:
    model = dabnn.convert_to_dataset_aware(
        smp.PSPNet("resnet18", encoder_weights=None, classes=5), 2, num_classes=[5, 3]
    )
    dabnn.save_dataset(model, 1, tmp_path)
    saved, plain = load_file(tmp_path / "branch.safetensors"), dabnn.extract_dataset(model, 1).state_dict()
    assert saved.keys() < plain.keys()
    assert_equal(saved, {key: plain[key] for key in saved})
    whole = sum(p.numel() for p in dabnn.extract_dataset(model, 1).parameters())
    assert sum(tensor.numel() for tensor in saved.values()) < 0.05 * whole


def test_the_file_of_a_real_network_is_a_hundredth_of_it(tmp_path) -> None:
    plain = smp.PSPNet("resnet18", encoder_weights=None, encoder_depth=5, classes=19)
    whole = sum(tensor.nbytes for tensor in plain.state_dict().values())
    model = dabnn.convert_to_dataset_aware(plain, 3, num_classes=[19] * 3)
    dabnn.save_dataset(model, 1, tmp_path / "branch")
    assert sum(file.stat().st_size for file in (tmp_path / "branch").iterdir()) <= 0.011 * whole


def test_one_norm_under_two_names_is_saved_once(tmp_path) -> None:
    model = aware(TwiceNamed(), 2)
    dabnn.save_dataset(model, 0, tmp_path)
    expected = on(model, 0, image_batch())
    randomise(model)
    dabnn.load_dataset(model, tmp_path)
    assert_equal(on(model, 0, image_batch()), expected)


def test_the_fingerprint_tells_shared_weights_apart_and_survives_half_precision() -> None:
    model = net()
    assert fingerprint(model) == fingerprint(base_of(model, ("x",), (9,)))
    assert fingerprint(model) != fingerprint(net(1))
    half = net().half().float()
    assert fingerprint(half) == fingerprint(model)


def test_other_shared_weights_are_refused(tmp_path) -> None:
    dabnn.save_dataset(net(), "b", tmp_path)
    other = net(1)
    expected = on(other, "b", image_batch())
    with pytest.raises(CheckpointError, match="trained with other shared weights"):
        dabnn.load_dataset(other, tmp_path)
    assert_equal(on(other, "b", image_batch()), expected)


def test_a_branch_that_does_not_fit_the_one_of_its_name_is_refused(tmp_path) -> None:
    model = net()
    dabnn.save_dataset(model, "b", tmp_path)
    with pytest.raises(CheckpointError, match=r"'classifier\.bias': \(3,\) in the file, \(5,\) in the model"):
        dabnn.load_dataset(base_of(model, ("a", "b"), (3, 5)), tmp_path)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("branch.safetensors", lambda data: data[:-8], "changed or cut off"),
        ("branch.safetensors", None, r"branch\.safetensors is missing"),
        ("branch.json", None, r"branch\.json is missing"),
        ("branch.json", lambda data: data[:40], "is damaged"),
        ("branch.json", lambda data: b"[]", "is damaged"),
        ("branch.json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "has format 2"),
    ],
)
def test_damaged_files_are_refused_before_anything_changes(tmp_path, file, damage, message) -> None:
    model = net()
    dabnn.save_dataset(model, "b", tmp_path)
    path = tmp_path / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    fresh = base_of(model, ("x",), (2,))
    with pytest.raises(CheckpointError, match=message):
        dabnn.load_dataset(fresh, tmp_path)
    assert dabnn.dataset_names(fresh) == ("x",)


def test_the_header_names_the_dataset_and_the_version(tmp_path) -> None:
    dabnn.save_dataset(net(), "b", tmp_path)
    header = json.loads((tmp_path / "branch.json").read_text())
    assert (header["dataset"], header["dabnn"], header["format"]) == ("b", dabnn.__version__, 1)


def test_a_folder_that_is_a_file_is_named(tmp_path) -> None:
    (tmp_path / "b").write_text("")
    with pytest.raises(CheckpointError, match="b is a file: choose a folder"):
        dabnn.save_dataset(net(), "b", tmp_path / "b")


def test_a_folder_with_other_files_is_not_touched(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"would be replaced as a whole, but holds notes.txt"):
        dabnn.save_dataset(net(), "b", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_half_precision_of_parameters_is_kept_in_the_file(tmp_path) -> None:
    model = net()
    for parameter in model.parameters():
        parameter.data = parameter.data.half()
    dabnn.save_dataset(model, "b", tmp_path)
    stored = load_file(tmp_path / "branch.safetensors")
    assert {t.dtype for key, t in stored.items() if key.endswith("weight")} == {torch.half}
    assert {t.dtype for key, t in stored.items() if "running" in key} == {torch.float32}
    fresh = base_of(model, ("x",), (2,))
    dabnn.load_dataset(fresh, tmp_path)
    assert_equal(on(fresh, "b", image_batch()), on(model.float(), "b", image_batch()))


def test_a_folder_in_the_making_is_found_where_it_stands(tmp_path) -> None:
    model = net()
    dabnn.save_dataset(model, "b", tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / ".b.old")  # as a process leaves it that is killed between two renames
    assert dabnn.load_dataset(base_of(model, ("x",), (2,)), tmp_path / "b") == "b"
    dabnn.save_dataset(model, "b", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_branch_of_a_channels_last_model_is_saved(tmp_path) -> None:
    model = aware().to(memory_format=torch.channels_last)
    dabnn.save_dataset(model, 1, tmp_path / "branch")
    assert dabnn.load_dataset(model, tmp_path / "branch") == dabnn.dataset_names(model)[1]
