from __future__ import annotations

import copy
import pickle
import pickletools
import threading

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import nets
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from toy_models import (
    ConvNet,
    TwiceNamed,
    assert_equal,
    aware,
    image_batch,
    on,
    randomise,
)

import dabnn


def assert_plain(model: nn.Module) -> None:
    """Nothing of dabnn is left: neither a module nor a name in the pickle."""
    assert not any(type(m).__module__.startswith("dabnn") for m in model.modules())
    strings = [arg for _, arg, _ in pickletools.genops(pickle.dumps(model)) if isinstance(arg, str)]
    assert not [s for s in strings if "dabnn" in s or "dataset_selection" in s]


@pytest.mark.parametrize("copied", [True, False], ids=["copy", "shared"])
@pytest.mark.parametrize(
    "build",
    [
        ConvNet,
        TwiceNamed,
        lambda: nn.BatchNorm2d(3),
        lambda: timm.create_model("test_efficientnet"),
        lambda: smp.PSPNet("resnet18", encoder_weights=None),
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights_backbone=None, num_classes=4
        ),
    ],
    ids=["ConvNet", "TwiceNamed", "root norm", "timm", "smp", "torchvision"],
)
def test_the_extracted_model_is_of_the_original_class_with_the_original_keys(build, copied) -> None:
    plain = randomise(build()).eval()
    model = aware(copy.deepcopy(plain), 2)
    for i in range(2):
        extracted = dabnn.extract_dataset(model, i, copy=copied)
        assert type(extracted) is type(plain)
        assert [(n, type(m)) for n, m in extracted.named_modules()] == [
            (n, type(m)) for n, m in plain.named_modules()
        ]
        assert list(extracted.state_dict()) == list(plain.state_dict())
        assert vars(extracted).keys() == vars(plain).keys()
        assert_plain(extracted)
        x = torch.randn(1, 3, 64, 64)
        assert_equal(extracted(x), on(model, i, x))


def test_extraction_changes_nothing() -> None:
    model = aware()
    before = {key: (value.data_ptr(), value.clone()) for key, value in model.state_dict().items()}
    dabnn.extract_dataset(model, 1).requires_grad_(False)
    dabnn.extract_dataset(model, 1, copy=False)
    for key, value in model.state_dict().items():
        assert value.data_ptr() == before[key][0]
        assert_equal(value, before[key][1])
    assert all(p.requires_grad for p in model.parameters())
    assert dabnn.active_dataset(model) is None


def test_a_copy_owns_its_tensors() -> None:
    model = aware()
    extracted = dabnn.extract_dataset(model, 1)
    pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not pointers & {tensor.data_ptr() for tensor in extracted.state_dict().values()}


def test_without_a_copy_tensors_are_shared_and_modules_are_not() -> None:
    model = aware()
    served = [dabnn.extract_dataset(model, i, copy=False) for i in range(3)]
    for i, plain in enumerate(served):
        assert plain.conv1.weight is model.conv1.weight
        assert plain.bn1.running_mean is model.bn1.bns[i].running_mean
        assert not {id(m) for m in plain.modules()} & {id(m) for m in model.modules()}
    served[0].train()
    assert not model.training
    assert not served[1].training


def test_threads_serve_extracted_models_side_by_side() -> None:
    model = aware()
    expected = [on(model, i, image_batch()) for i in range(3)]
    served = [dabnn.extract_dataset(model, i % 3, copy=False) for i in range(8)]
    wrong: list[int] = []

    def serve(i: int) -> None:
        for _ in range(20):
            if not torch.equal(served[i](image_batch()), expected[i % 3]):
                wrong.append(i)

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_eight_served_datasets_cost_a_tenth_more_memory_than_one() -> None:
    plain = smp.PSPNet("resnet18", encoder_weights=None, classes=19)
    one = sum(tensor.nbytes for tensor in plain.state_dict().values())
    model = dabnn.convert_to_dataset_aware(plain, 8, num_classes=[19] * 8)
    tensors = [t for i in range(8) for t in dabnn.extract_dataset(model, i, copy=False).state_dict().values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(storages.values()) <= 1.1 * one


def test_modes_and_requires_grad_are_those_of_the_branch() -> None:
    model = aware().train()
    model.bn1.bns[1].eval().requires_grad_(False)
    extracted = dabnn.extract_dataset(model, 1)
    assert extracted.training
    assert not extracted.bn1.training
    assert not extracted.bn1.weight.requires_grad
    assert dabnn.extract_dataset(model, 0).bn1.training


def test_hooks_come_along() -> None:
    model = ConvNet()
    fired: list[str] = []
    model.bn1.register_forward_hook(lambda *_: fired.append("site"))
    aware(model)
    model.bn1.bns[1].register_forward_hook(lambda *_: fired.append("branch"))
    dabnn.extract_dataset(model, 1)(image_batch())
    assert sorted(fired) == ["branch", "site"]
    on(model, 0, image_batch())
    assert sorted(fired) == ["branch", "site", "site"]


def test_hooks_bound_to_the_model_are_bound_to_the_extracted_one() -> None:
    class Watching(ConvNet):
        def __init__(self) -> None:
            super().__init__()
            self.seen = 0
            self.bn1.register_forward_hook(self.watch)

        def watch(self, *_) -> None:
            self.seen += 1

    model = aware(Watching())
    extracted = dabnn.extract_dataset(model, 1)
    extracted(image_batch())
    assert (extracted.seen, model.seen) == (1, 0)


def test_a_model_that_a_norm_refers_to_is_extracted_once() -> None:
    model = ConvNet()
    model.bn1.owner = [model]
    extracted = dabnn.extract_dataset(aware(model), 0)
    assert extracted.bn1.owner[0] is extracted
    assert_plain(extracted)


def test_wrappers_are_taken_off() -> None:
    model = aware()
    for wrapped in (torch.compile(model), nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        assert type(dabnn.extract_dataset(wrapped, 0)) is ConvNet


def test_a_part_is_extracted_inside_its_parent() -> None:
    encoder = aware(smp.encoders.get_encoder("resnet18", weights=None))
    parent = nn.Sequential(encoder)
    extracted = dabnn.extract_dataset(parent, 1)
    assert type(extracted[0]) is type(encoder)
    assert_plain(extracted)


def test_smp_round_trip_with_the_number_of_classes_of_the_dataset(tmp_path) -> None:
    model = dabnn.convert_to_dataset_aware(
        smp.PSPNet("resnet18", encoder_weights=None, classes=19), 2, num_classes=[19, 11]
    )
    randomise(model).eval()
    dabnn.extract_dataset(model, 1).save_pretrained(tmp_path)
    loaded = smp.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 64, 64)
    assert loaded(x).shape == (1, 11, 64, 64)
    assert_equal(loaded(x), on(model, 1, x))


def test_timm_models_know_their_number_of_classes() -> None:
    model = dabnn.convert_to_dataset_aware(
        timm.create_model("test_resnet", num_classes=10), 2, num_classes=[10, 7]
    )
    extracted = dabnn.extract_dataset(model, 1)
    assert extracted.num_classes == 7
    extracted.reset_classifier(3)
    assert extracted(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_extracted_models_export() -> None:
    extracted = dabnn.extract_dataset(aware(), 1)
    exported = torch.export.export(extracted, (image_batch(),))
    assert_equal(exported.module()(image_batch()), extracted(image_batch()))


def test_parameters_are_shared_or_of_one_dataset() -> None:
    model = aware(num_classes=[5, 5, 2], classifier="classifier")
    shared = list(dabnn.shared_parameters(model))
    private = [list(dabnn.branch_parameters(model, i)) for i in range(3)]
    everything = [*shared, *private[0], *private[1], *private[2]]
    assert len({id(p) for p in everything}) == len(everything)
    assert {id(p) for p in everything} == {id(p) for p in model.parameters()}
    assert {id(p) for p in shared} == {id(model.conv1.weight), id(model.conv2.weight)}
    assert [len(p) for p in private] == [6, 6, 6]


def test_a_norm_used_twice_is_counted_once() -> None:
    model = aware(TwiceNamed())
    assert len(list(dabnn.branch_parameters(model, 0))) == 2


@settings(max_examples=15)
@given(net=nets(), n=st.integers(1, 4), data=st.data())
def test_extraction_equals_the_active_forward(net, n, data) -> None:
    model = aware(net.build(), n)
    i = data.draw(st.integers(0, n - 1))
    extracted = dabnn.extract_dataset(model, i)
    assert_equal(extracted(net.batch()), on(model, i, net.batch()))
    assert list(extracted.state_dict()) == list(net.build().state_dict())


def test_branches_that_are_not_extracted_are_not_copied() -> None:
    class Counting(nn.BatchNorm2d):
        copies = 0

        def __deepcopy__(self, memo):
            Counting.copies += 1
            twin = Counting(self.num_features)
            twin.load_state_dict(self.state_dict())
            return twin

    model = aware(nn.Sequential(Counting(3)), 5)
    Counting.copies = 0
    dabnn.extract_dataset(model, 2)
    assert Counting.copies == 1
    assert all(isinstance(m, _BatchNorm) for m in model[0].bns)


def test_a_subclass_of_the_block_keeps_its_own_forward() -> None:
    class Residual(dabnn.DatasetAwareBlock):
        def forward(self, x):
            return x + super().forward(x)

    model = nn.Sequential(Residual(3, 3, selection=dabnn.DatasetSelection(["a", "b"])))
    randomise(model).eval()
    extracted = dabnn.extract_dataset(model, 1)
    assert type(extracted[0]) is Residual
    assert not [m for m in extracted.modules() if isinstance(m, dabnn.DatasetSwitch)]
    assert_equal(extracted(image_batch()), on(model, 1, image_batch()))


class Task(nn.Module):
    """A model of a user's own around one of SMP's."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def test_an_smp_model_inside_another_round_trips(tmp_path) -> None:
    model = dabnn.convert_to_dataset_aware(
        Task(smp.Unet("resnet18", encoder_weights=None, classes=11)),
        2,
        num_classes=[11, 5],
        classifier="net.segmentation_head.0",
    )
    with pytest.raises(dabnn.errors.DabnnError, match="extract_dataset"):
        model.net.save_pretrained(tmp_path)
    dabnn.extract_dataset(model, 1).net.save_pretrained(tmp_path)
    assert smp.from_pretrained(tmp_path)(torch.randn(2, 3, 64, 64)).shape == (2, 5, 64, 64)


@pytest.mark.parametrize(
    ("classifier", "shapes"),
    [
        ("classification_head.3", (11, 5)),
        (["segmentation_head.0", "classification_head.3"], (5, 5)),
    ],
)
def test_smp_classification_heads_round_trip(tmp_path, classifier, shapes) -> None:
    model = dabnn.convert_to_dataset_aware(
        smp.Unet("resnet18", encoder_weights=None, classes=11, aux_params={"classes": 4}),
        2,
        num_classes=[4, 5],
        classifier=classifier,
    )
    dabnn.extract_dataset(model, 1).save_pretrained(tmp_path)
    masks, labels = smp.from_pretrained(tmp_path)(torch.randn(2, 3, 64, 64))
    assert (masks.shape[1], labels.shape[1]) == shapes


def test_what_a_norm_refers_to_is_not_copied_into_its_branches() -> None:
    model = ConvNet()
    model.bn1.owner = [model]
    converted = aware(model)
    assert all(bn.owner[0] is converted for bn in converted.bn1.bns)
    extracted = dabnn.extract_dataset(converted, 1)
    assert extracted.bn1.owner[0] is extracted
