from __future__ import annotations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from toy_models import ConvNet, aware, image_batch

import dabnn
from dabnn.deploy import export
from dabnn.deploy.export import export_model
from dabnn.errors import ConfigError, ConversionError, DabnnError

# Warnings of torch's and onnxscript's own exporters about what they are going to change, and of torch before
# 2.13 about the memory that its `torch.export.load` reads a file into.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The given buffer is not writable"
)


@pytest.mark.parametrize(
    "build",
    [
        ConvNet,
        lambda: smp.PSPNet("resnet18", encoder_weights=None, classes=5),
    ],
    ids=["toy", "PSPNet"],
)
def test_the_onnx_file_of_a_dataset_runs_elsewhere_with_any_batch_size(build, tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    plain = dabnn.extract_dataset(aware(build()), 1)
    size = 8 if isinstance(plain, ConvNet) else 64
    example = torch.randn(2, 3, size, size)
    assert export_model(plain, tmp_path / "net.onnx", example) < 1e-4
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    x = torch.randn(5, 3, size, size)
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(output, plain(x).detach().numpy(), rtol=1e-3, atol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_exported_program_of_a_dataset_runs_with_any_batch_size(tmp_path) -> None:
    plain = dabnn.extract_dataset(aware(), 2).train()
    assert export_model(plain, tmp_path / "net.pt2", image_batch(), format="pt2") < 1e-6
    assert plain.training
    program = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(program(image_batch(7)), plain.eval()(image_batch(7)))


def test_a_folded_network_exports(tmp_path) -> None:
    folded = dabnn.fold_batch_norm(dabnn.extract_dataset(aware(), 0))
    assert export_model(folded, tmp_path / "net.pt2", image_batch(), format="pt2") < 1e-6
    program = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(program(image_batch(3)), folded(image_batch(3)))


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_run_pt2", lambda path, example: example.new_zeros(4, 5, 8, 8))
    with pytest.raises(DabnnError, match=r"differs by 1\.0e[+]00 of the largest output"):
        export_model(dabnn.extract_dataset(aware(), 0), tmp_path / "net.pt2", image_batch(), format="pt2")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path) -> None:
    plain = dabnn.extract_dataset(aware(), 0)
    with pytest.raises(ConversionError, match="extract_dataset"):
        export_model(aware(), tmp_path / "net.onnx", image_batch())
    with pytest.raises(ConfigError, match="'onnx' or 'pt2', got 'tflite'"):
        export_model(plain, tmp_path / "net", image_batch(), format="tflite")
    with pytest.raises(ConfigError, match="two images or more"):
        export_model(plain, tmp_path / "net.onnx", image_batch(1))
    with pytest.raises(ConversionError):
        export_model(nn.Sequential(aware()), tmp_path / "net.onnx", image_batch())
