from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from toy_models import ConvNet, assert_equal, aware, image_batch, on

import dabnn
from dabnn.errors import DabnnWarning, NoActiveDatasetError


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8):  # torch's default, which importing timm.optim lifts
        yield
    torch._dynamo.reset()


def compiled_model(model: nn.Module, **options) -> Callable[[int], torch.Tensor]:
    compiled = torch.compile(model, **options)
    return lambda dataset: on(compiled, dataset, image_batch())


def compiled_in_place(model: nn.Module, **options) -> Callable[[int], torch.Tensor]:
    model.compile(**options)
    return lambda dataset: on(model, dataset, image_batch())


def selected_outside_the_wrapper(model: nn.Module, **options) -> Callable[[int], torch.Tensor]:
    compiled = torch.compile(model, **options)

    def forward(dataset: int) -> torch.Tensor:
        with dabnn.use_dataset(model, dataset):
            return compiled(image_batch())

    return forward


def compiled_step(model: nn.Module, **options) -> Callable[[int], torch.Tensor]:
    @torch.compile(**options)
    def step(x: torch.Tensor, dataset: int) -> torch.Tensor:
        with dabnn.use_dataset(model, dataset):
            return model(x)

    return lambda dataset: step(image_batch(), dataset)


HOW = [compiled_model, compiled_in_place, selected_outside_the_wrapper, compiled_step]


@pytest.mark.parametrize("how", HOW)
def test_each_of_three_datasets_is_right_without_a_graph_break(how) -> None:
    model = aware(num_classes=[5, 2, 3], classifier="classifier")
    expected = [on(model, i, image_batch()) for i in range(3)]
    forward = how(model, backend="eager", fullgraph=True)
    for _ in range(2):
        for i in range(3):
            assert_equal(forward(i), expected[i])


@pytest.mark.parametrize("how", HOW)
def test_d06_nine_datasets_are_right_and_warn_once(how) -> None:
    """torch keeps 8 graphs of a function; what exceeds them runs uncompiled."""
    model = aware(n=9)
    expected = [on(model, i, image_batch()) for i in range(9)]
    forward = how(model, backend="eager")
    with pytest.warns(DabnnWarning, match=r"recompile_limit to at least 9") as caught:
        outputs = [forward(i) for i in (*range(9), *range(9))]
    assert_equal(outputs, expected * 2)
    assert len([warning for warning in caught if warning.category is DabnnWarning]) == 1
    assert torch._dynamo.config.recompile_limit == 8


def test_the_warning_neither_breaks_a_graph_nor_costs_one() -> None:
    counter = torch._dynamo.testing.CompileCounter()
    forward = compiled_model(aware(n=9), backend=counter, fullgraph=True)
    with pytest.warns(DabnnWarning):
        forward(0)
    for i in (*range(8), *range(8)):
        forward(i)
    assert counter.frame_count == 8


def test_nine_datasets_compile_in_full_and_silently_under_a_higher_limit() -> None:
    model = aware(n=9)
    expected = [on(model, i, image_batch()) for i in range(9)]
    with torch._dynamo.config.patch(recompile_limit=9):
        forward = compiled_model(model, backend="eager", fullgraph=True)
        for i in range(9):
            assert_equal(forward(i), expected[i])


def test_one_graph_per_dataset() -> None:
    counter = torch._dynamo.testing.CompileCounter()
    forward = compiled_model(aware(), backend=counter)
    for _ in range(3):
        for i in range(3):
            forward(i)
    assert counter.frame_count == 3


def test_a_compiled_training_step_gives_the_gradients_and_buffers_of_eager() -> None:
    model, twin = aware().train(), aware().train()
    twin.load_state_dict(model.state_dict())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.dropout.eval()
    twin.dropout.eval()
    for i in range(3):
        on(compiled, i, image_batch()).square().mean().backward()
        on(twin, i, image_batch()).square().mean().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiled_forward_without_a_dataset_raises() -> None:
    compiled = torch.compile(aware(), backend="eager")
    with torch.no_grad(), pytest.raises(NoActiveDatasetError):
        compiled(image_batch())


def test_exporting_with_many_datasets_does_not_speak_of_recompilation() -> None:
    model = aware(n=9)
    with dabnn.use_dataset(model, 3), warnings.catch_warnings():
        warnings.simplefilter("error", DabnnWarning)
        exported = torch.export.export(model, (image_batch(),), strict=True)
        expected = model(image_batch())
    assert_equal(exported.module()(image_batch()), expected)


def test_converting_after_compiling_is_refused() -> None:
    with pytest.raises(dabnn.errors.ConversionError, match="convert first, then compile"):
        dabnn.convert_to_dataset_aware(torch.compile(ConvNet()), 2)
