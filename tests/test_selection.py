from __future__ import annotations

import copy
import io
import pickle

import pytest
import timm.utils
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from toy_models import ConvNet, assert_equal, aware, image_batch, on, process_group

import dabnn
from dabnn.errors import NoActiveDatasetError, NotDatasetAwareError, UnknownDatasetError

NAMES = ["cityscapes", "camvid", "kitti"]


@pytest.fixture
def model() -> nn.Module:
    return aware(ConvNet(), n=None, dataset_names=NAMES)


def test_a_forward_without_a_dataset_names_the_datasets(model) -> None:
    with pytest.raises(NoActiveDatasetError, match=r"\['cityscapes', 'camvid', 'kitti'\].*use_dataset"):
        model(image_batch())


def test_names_and_indices_select_the_same(model) -> None:
    assert dabnn.dataset_names(model) == tuple(NAMES)
    for i, name in enumerate(NAMES):
        assert_equal(on(model, i, image_batch()), on(model, name, image_batch()))
    assert not torch.equal(on(model, 0, image_batch()), on(model, 1, image_batch()))


def test_default_names() -> None:
    assert dabnn.dataset_names(aware(n=2)) == ("dataset_0", "dataset_1")


def test_blocks_nest_and_restore_what_was_selected(model) -> None:
    dabnn.set_dataset(model, "kitti")
    with dabnn.use_dataset(model, "cityscapes"):
        assert dabnn.active_dataset(model) == "cityscapes"
        with dabnn.use_dataset(model, 1):
            assert dabnn.active_dataset(model) == "camvid"
        assert dabnn.active_dataset(model) == "cityscapes"
    assert dabnn.active_dataset(model) == "kitti"
    dabnn.set_dataset(model, None)
    assert dabnn.active_dataset(model) is None


def test_an_exception_restores_the_selection(model) -> None:
    with pytest.raises(KeyError), dabnn.use_dataset(model, 0):
        raise KeyError
    assert dabnn.active_dataset(model) is None


def test_an_unknown_dataset_inside_a_block_leaves_it_as_it_was(model) -> None:
    with dabnn.use_dataset(model, 1):
        with pytest.raises(UnknownDatasetError), dabnn.use_dataset(model, "bdd"):
            pass
        assert dabnn.active_dataset(model) == "camvid"


@pytest.mark.parametrize("dataset", ["bdd100k", "", -1, 3, True, 1.0, None, "1"])
def test_unknown_datasets_are_answered_with_the_known_ones(model, dataset) -> None:
    with (
        pytest.raises(UnknownDatasetError, match=r"\{0: 'cityscapes', 1: 'camvid', 2: 'kitti'\}"),
        dabnn.use_dataset(model, dataset),
    ):
        pass
    if dataset is not None:
        with pytest.raises(UnknownDatasetError):
            dabnn.set_dataset(model, dataset)
    with pytest.raises(UnknownDatasetError):
        dabnn.extract_dataset(model, dataset)
    with pytest.raises(UnknownDatasetError):
        dabnn.branch_parameters(model, dataset)


@pytest.mark.parametrize(
    "function",
    [
        dabnn.dataset_names,
        dabnn.active_dataset,
        dabnn.shared_parameters,
        lambda m: dabnn.set_dataset(m, 0),
        lambda m: dabnn.use_dataset(m, 0).__enter__(),
        lambda m: dabnn.extract_dataset(m, 0),
        lambda m: dabnn.branch_parameters(m, 0),
        lambda m: dabnn.load_state_dict(m, {}),
    ],
)
def test_a_plain_model_is_told_to_convert(function) -> None:
    with pytest.raises(NotDatasetAwareError, match=r"ConvNet is not dataset-aware; call dabnn\.convert"):
        function(ConvNet())


def test_selecting_changes_nothing_but_the_selection(model) -> None:
    before = copy.deepcopy(model.state_dict())
    flags = [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]
    for i in range(3):
        with dabnn.use_dataset(model, i):
            pass
    assert_equal(dict(model.state_dict()), dict(before))
    assert flags == [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()]


def test_a_deep_copy_owns_its_selection(model) -> None:
    twin = copy.deepcopy(model)
    with dabnn.use_dataset(model, 1):
        assert dabnn.active_dataset(twin) is None
        with dabnn.use_dataset(twin, 2):
            assert_equal(twin(image_batch()), on(model, 2, image_batch()))
            assert dabnn.active_dataset(model) == "camvid"
    assert twin.bn1.selection is twin.bn2.selection
    assert twin.bn1.selection is not model.bn1.selection


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickled_model_selects_again(model, how) -> None:
    if how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    for name in NAMES:
        assert_equal(on(twin, name, image_batch()), on(model, name, image_batch()))


def average(ema: nn.Module, model: nn.Module) -> nn.Module:
    """Train each dataset a little and average the weights with those of the model."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i in range(3):
        on(model.train(), i, image_batch()).square().mean().backward()
    optimizer.step()
    ema.update_parameters(model) if isinstance(ema, AveragedModel) else ema.update(model)
    return ema.eval()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True),
        lambda m: timm.utils.ModelEmaV3(m, decay=0.5),
    ],
    ids=["torch AveragedModel", "timm ModelEmaV3"],
)
def test_weight_averages_are_selected_on_their_own(model, wrap) -> None:
    ema = wrap(model)
    start = copy.deepcopy(model)
    if isinstance(ema, AveragedModel):
        ema.update_parameters(model)  # the first update copies
    average(ema, model)
    for i in range(3):
        for name in ("weight", "running_mean"):
            a, b = (getattr(m.bn1.bns[i], name) for m in (start, model))
            torch.testing.assert_close(getattr(ema.module.bn1.bns[i], name), 0.5 * a + 0.5 * b)
        with dabnn.use_dataset(ema, i):
            assert dabnn.active_dataset(model) is None
            ema(image_batch())
    with pytest.raises(NoActiveDatasetError):
        ema(image_batch())


def test_wrapped_models_select_through_the_wrapper(model) -> None:
    expected = on(model, 1, image_batch())
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model), nn.Sequential(model)):
        assert dabnn.dataset_names(wrapped) == tuple(NAMES)
        assert_equal(on(wrapped, 1, image_batch()), expected)
    with process_group():
        ddp = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        assert_equal(on(ddp, 1, image_batch()), expected)
        assert_equal(on(torch.compile(ddp, backend="eager"), 1, image_batch()), expected)
        assert_equal(dabnn.extract_dataset(ddp, 1)(image_batch()), expected)
    assert dabnn.active_dataset(model) is None


def test_a_parent_finds_the_one_converted_model_in_it(model) -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = nn.CrossEntropyLoss()
            self.net = model

    task = Task()
    with dabnn.use_dataset(task, 1):
        assert dabnn.active_dataset(model) == "camvid"


def test_a_parent_of_several_converted_models_must_be_told_which(model) -> None:
    parent = nn.ModuleList([model, aware()])
    with pytest.raises(NotDatasetAwareError, match="ModuleList holds 2 separately converted models"):
        dabnn.set_dataset(parent, 0)
    with dabnn.use_dataset(parent[0], 0), dabnn.use_dataset(parent[1], 2):
        parent[0](image_batch())
        parent[1](image_batch())


def test_a_single_dataset_is_active_from_the_start() -> None:
    model = aware(n=1)
    assert dabnn.active_dataset(model) == "dataset_0"
    with dabnn.use_dataset(model, 0):
        pass
    assert model(image_batch()).shape == (4, 5, 8, 8)


def test_a_selection_prints_its_state() -> None:
    selection = dabnn.DatasetSelection(["a", "b"])
    assert repr(selection) == "DatasetSelection(names=['a', 'b'], active=None)"
    selection.active = 1
    assert repr(selection) == "DatasetSelection(names=['a', 'b'], active='b')"
    assert len(selection) == 2


def test_a_selection_that_persists_over_a_checkpointed_step_gives_right_gradients(model) -> None:
    model.train().dropout.eval()
    twin = copy.deepcopy(model)
    on(twin, 1, image_batch()).square().sum().backward()
    dabnn.set_dataset(model, 1)
    checkpoint(model, image_batch(), use_reentrant=False).square().sum().backward()
    assert_equal([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


def test_a_checkpointed_backward_outside_the_block_raises_instead_of_lying(model) -> None:
    model.train()
    with dabnn.use_dataset(model, 1):
        y = checkpoint(model, image_batch(), use_reentrant=False)
    with pytest.raises(NoActiveDatasetError, match="activation checkpointing"):
        y.sum().backward()


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_the_optimizer_leaves_inactive_branches_alone(model, optimizer) -> None:
    step = optimizer(model.parameters(), lr=0.1, weight_decay=0.5, **_momentum(optimizer))
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        step.zero_grad()
        on(model.train(), 1, image_batch()).square().sum().backward()
        step.step()
    for key, value in model.state_dict().items():
        inactive = ".bns.0." in key or ".bns.2." in key
        assert torch.equal(value, before[key]) == inactive, key


def _momentum(optimizer: type) -> dict[str, float]:
    return {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
