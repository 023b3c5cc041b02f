from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn
from toy_models import ConvNet, TwoParents, assert_equal, aware, image_batch, on, randomise

import dabnn
from dabnn.errors import CheckpointError, NotDatasetAwareError


@pytest.fixture(params=["dabnn.load_state_dict", "model.load_state_dict"])
def load(request: pytest.FixtureRequest):
    """Both ways to load; the second is torch's own."""
    if request.param == "dabnn.load_state_dict":
        return dabnn.load_state_dict
    return lambda model, state, **kwargs: model.load_state_dict(state, **kwargs)


def with_heads(classes: tuple[int, ...] = (5, 5), own: int = 5) -> nn.Module:
    return aware(ConvNet(classes=own), len(classes), num_classes=classes, classifier="classifier")


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("build", [ConvNet, TwoParents, lambda: nn.BatchNorm2d(3)])
def test_a_plain_checkpoint_fills_every_branch(load, build, assign) -> None:
    plain = randomise(build()).eval()
    model = aware(build(), 3)
    load(model, plain.state_dict(), assign=assign)
    for i in range(3):
        assert_equal(on(model, i, image_batch()), plain(image_batch()))


@pytest.mark.parametrize("assign", [False, True])
def test_branches_filled_from_a_plain_checkpoint_are_independent(load, assign) -> None:
    state = randomise(ConvNet()).state_dict()
    model = aware()
    load(model, state, assign=assign)
    pointers = [bn.running_mean.data_ptr() for bn in model.bn1.bns] + [state["bn1.running_mean"].data_ptr()]
    assert len(set(pointers)) == 4
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.is_leaf for p in model.parameters())


def test_the_given_state_dict_is_not_changed(load) -> None:
    state = randomise(ConvNet()).state_dict()
    before = OrderedDict((key, value.clone()) for key, value in state.items())
    load(aware(), state)
    assert list(state) == list(before)
    assert_equal(dict(state), dict(before))


def test_a_meta_model_comes_alive_with_assign(load) -> None:
    plain = randomise(ConvNet()).eval()
    with torch.device("meta"):
        model = ConvNet()
    model = dabnn.convert_to_dataset_aware(model, 2).eval()
    load(model, plain.state_dict(), assign=True)
    for i in range(2):
        assert_equal(on(model, i, image_batch()), plain(image_batch()))


def test_a_dataset_aware_checkpoint_round_trips(load) -> None:
    model, twin = with_heads((5, 3)), with_heads((5, 3))
    load(twin, model.state_dict())
    assert_equal(dict(twin.state_dict()), dict(model.state_dict()))


def test_plain_classifiers_fill_the_heads_they_fit(load) -> None:
    plain = randomise(ConvNet()).eval()
    model = with_heads((5, 5), own=5)
    load(model, plain.state_dict())
    for i in range(2):
        assert_equal(on(model, i, image_batch()), plain(image_batch()))


@pytest.mark.parametrize(("saved", "wanted"), [(2, 3), (3, 2), (1, 2)])
def test_another_number_of_datasets_is_an_error_that_names_both(load, saved, wanted) -> None:
    message = rf"bn1: the checkpoint holds {saved} datasets, the model {wanted} \['dataset_0'"
    with pytest.raises(CheckpointError, match=message):
        load(aware(n=wanted), aware(n=saved).state_dict())


def test_dsbn_keys_load_as_they_are(load) -> None:
    """DSBN keeps ``<name>.bns.<i>.<param>``; everything else is plain."""
    plain, state = randomise(ConvNet()), OrderedDict()
    expected = [randomise(copy.deepcopy(plain)) for _ in range(2)]
    for key, value in plain.state_dict().items():
        site, _, name = key.rpartition(".")
        if site in ("bn1", "bn2"):
            state |= {f"{site}.bns.{i}.{name}": expected[i].state_dict()[key] for i in range(2)}
        else:
            state[key] = value
    model = dabnn.convert_to_dataset_aware(ConvNet(), 2).eval()
    load(model, state)
    for i in range(2):
        assert_equal(on(model, i, image_batch()), expected[i].eval()(image_batch()))


def test_files_from_before_num_batches_tracked_load(load) -> None:
    state = {k: v for k, v in ConvNet().state_dict().items() if not k.endswith("num_batches_tracked")}
    model = aware()
    load(model, state)
    assert_equal(model.bn1.bns[2].running_mean, state["bn1.running_mean"])


def test_files_from_before_num_batches_tracked_load_into_a_meta_model(load) -> None:
    state = {k: v for k, v in ConvNet().state_dict().items() if not k.endswith("num_batches_tracked")}
    model = dabnn.convert_to_dataset_aware(ConvNet().to("meta"), 2).train()
    load(model, state, assign=True)
    on(model, 1, image_batch())
    assert [bn.num_batches_tracked.item() for bn in model.bn1.bns] == [0, 1]


def test_a_head_that_does_not_fit_says_how_to_keep_the_models() -> None:
    model = with_heads((19, 11), own=19)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r"heads\.1\.weight is \(19, 6, 1, 1\) .*\(11, .*heads='skip'"):
        dabnn.load_state_dict(model, ConvNet(classes=19).state_dict())
    assert_equal(dict(model.state_dict()), dict(before))


def test_skipped_heads_stay_and_the_others_load() -> None:
    plain = randomise(ConvNet(classes=19))
    model = with_heads((19, 11), own=19)
    kept = model.classifier.heads[1].weight.clone()
    skipped = dabnn.load_state_dict(model, plain.state_dict(), heads="skip")
    assert skipped == ["classifier.heads.1.bias", "classifier.heads.1.weight"]
    assert_equal(model.classifier.heads[0].weight, plain.classifier.weight)
    assert_equal(model.classifier.heads[1].weight, kept)
    assert_equal(model.bn1.bns[1].running_mean, plain.bn1.running_mean)


def test_a_classifier_is_skipped_as_a_whole() -> None:
    wider = ConvNet()
    wider.classifier = nn.Conv2d(8, 5, 1)
    model = with_heads((5, 5))
    kept = [head.bias.clone() for head in model.classifier.heads]
    assert len(dabnn.load_state_dict(model, wider.state_dict(), heads="skip")) == 4
    assert_equal([head.bias for head in model.classifier.heads], kept)


def test_skipping_heads_does_not_excuse_other_shapes() -> None:
    state = ConvNet().state_dict()
    state["conv1.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(CheckpointError, match=r"conv1\.weight is \(4, 1, 3, 3\) in the checkpoint, \(4, 3"):
        dabnn.load_state_dict(with_heads(), state, heads="skip")


def break_shape(state) -> None:
    state["classifier.bias"] = torch.zeros(7)


def break_missing(state) -> None:
    del state["bn2.weight"]


def break_unexpected(state) -> None:
    state["extra.weight"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            break_shape,
            r"nothing was loaded: classifier\.bias is \(7,\) in the checkpoint, \(5,\) in the model",
        ),
        (break_missing, r"missing bn2\.bns\.0\.weight; missing bn2\.bns\.1\.weight"),
        (break_unexpected, r"unexpected extra\.weight"),
    ],
)
def test_nothing_is_written_unless_everything_fits(break_it, message) -> None:
    model = aware()
    before = copy.deepcopy(model.state_dict())
    state = randomise(ConvNet()).state_dict()
    break_it(state)
    with pytest.raises(CheckpointError, match=message):
        dabnn.load_state_dict(model, state)
    assert_equal(dict(model.state_dict()), dict(before))


def test_a_long_list_of_problems_is_cut() -> None:
    with pytest.raises(CheckpointError, match="and 20 more"):
        dabnn.load_state_dict(aware(), {})


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="heads must be 'strict' or 'skip', got 'ignore'"):
        dabnn.load_state_dict(aware(), {}, heads="ignore")
    with pytest.raises(NotDatasetAwareError):
        dabnn.load_state_dict(ConvNet(), ConvNet().state_dict())


def test_torch_reports_missing_and_unexpected_keys_as_for_plain_models() -> None:
    state = ConvNet().state_dict()
    break_missing(state)
    break_unexpected(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*bn2\.bns\.0\.weight[\s\S]*Unexpected key.*extra"):
        aware().load_state_dict(state)
    missing, unexpected = aware(n=2).load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["bn2.bns.0.weight", "bn2.bns.1.weight"], ["extra.weight"])


def test_extra_state_of_a_layer_is_copied_to_every_branch(load) -> None:
    class Counting(nn.BatchNorm2d):
        calls = 0

        def get_extra_state(self) -> dict[str, int]:
            return {"calls": self.calls}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.calls = state["calls"]

    plain = nn.Sequential(Counting(3))
    plain[0].calls = 4
    model = dabnn.convert_to_dataset_aware(nn.Sequential(Counting(3)), 2)
    load(model, plain.state_dict())
    assert [bn.calls for bn in model[0].bns] == [4, 4]


def test_an_smp_checkpoint_loads_strictly() -> None:
    plain = randomise(smp.FPN("resnet18", encoder_weights=None, classes=4)).eval()
    model = dabnn.convert_to_dataset_aware(smp.FPN("resnet18", encoder_weights=None, classes=4), 2).eval()
    assert dabnn.load_state_dict(model, plain.state_dict()) == []
    x = torch.randn(1, 3, 64, 64)
    assert_equal(on(model, 1, x), plain(x))


def test_layers_upgrade_entries_by_the_version_noted_beside_them() -> None:
    plain = torchvision.models.mnasnet0_5(weights=None)
    model = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), 2)
    assert dabnn.load_state_dict(model, plain.state_dict()) == []
    assert_equal(on(model.eval(), 1, torch.ones(1, 3, 64, 64)), plain.eval()(torch.ones(1, 3, 64, 64)))
