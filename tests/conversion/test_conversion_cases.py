"""The 28 cases in which converters of batch norm are known to fail, one test or more for each.

The numbers C1 to C28 are those of the project's notes on other converters.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import timm
import timm.layers
import timm.optim
import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune
from toy_models import (
    ConvNet,
    Snapshot,
    Stubborn,
    TwiceNamed,
    TwoParents,
    assert_drop_in,
    assert_equal,
    assert_refused,
    aware,
    image_batch,
    on,
    process_group,
    randomise,
    without_beta,
)

import dabnn
from dabnn.errors import CheckpointError, ConversionError, DabnnWarning, NoBatchNormFoundError


def test_c01_model_is_changed_in_place_and_returned() -> None:
    model = ConvNet()
    assert dabnn.convert_to_dataset_aware(model, 2) is model


def test_c01_root_batch_norm_is_returned_wrapped() -> None:
    bn = nn.BatchNorm2d(3)
    wrapped = dabnn.convert_to_dataset_aware(bn, 2)
    assert isinstance(wrapped, dabnn.DatasetAwareBatchNorm)
    assert wrapped.bns[0] is bn
    assert dabnn.dataset_names(wrapped) == ("dataset_0", "dataset_1")


def test_c02_nothing_to_convert_raises() -> None:
    assert_refused(nn.Sequential(nn.Conv2d(3, 3, 1)), "no norm at all", NoBatchNormFoundError)


def test_c02_an_error_in_the_middle_changes_nothing() -> None:
    class Uncopyable(nn.BatchNorm2d):
        def __deepcopy__(self, memo):
            raise RuntimeError("holds a lock")

    model = nn.Sequential(nn.BatchNorm2d(3), Uncopyable(3))
    fired = []
    model[0].register_forward_hook(lambda *_: fired.append(1))
    before = Snapshot(model)
    with pytest.raises(ConversionError, match="holds a lock"):
        dabnn.convert_to_dataset_aware(model, 2)
    before.assert_unchanged()
    model(image_batch())
    assert fired == [1]


def test_c03_converting_twice_raises() -> None:
    model = dabnn.convert_to_dataset_aware(ConvNet(), dataset_names=["a", "b"])
    assert_refused(model, r"bn1 \(DatasetAwareBatchNorm\) is dataset-aware already, for \['a', 'b'\]")


def test_c03_a_model_with_a_converted_part_raises() -> None:
    part = dabnn.convert_to_dataset_aware(ConvNet(), 2)
    assert_refused(nn.Sequential(nn.BatchNorm2d(3), part), "1.bn1")


def test_c04_fused_activation_survives() -> None:
    def norm(channels: int) -> nn.Module:
        return BatchNormAct2d(channels, act_layer=nn.SiLU, drop_layer=nn.Dropout2d)

    assert_drop_in(randomise(ConvNet(norm)), image_batch())


def test_c05_training_flags_survive() -> None:
    model = ConvNet().eval()
    model.bn2.train()
    dabnn.convert_to_dataset_aware(model, 2)
    assert not any(module.training for module in model.bn1.modules())
    assert all(module.training for module in model.bn2.modules())


def test_c06_requires_grad_survives() -> None:
    model = ConvNet()
    model.bn1.requires_grad_(False)
    model.bn2.bias.requires_grad_(False)
    dabnn.convert_to_dataset_aware(model, 3)
    assert [p.requires_grad for p in model.bn1.parameters()] == [False, False] * 3
    assert [p.requires_grad for p in model.bn2.parameters()] == [True, False] * 3


def test_c07_dtype_and_device_survive() -> None:
    model = ConvNet().bfloat16()
    model.bn2.to("meta")
    dabnn.convert_to_dataset_aware(model, 2)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.is_meta for p in model.bn2.parameters())
    assert not any(p.is_meta for p in model.bn1.parameters())


def test_c08_no_two_branches_share_storage() -> None:
    model = dabnn.convert_to_dataset_aware(ConvNet(), 3)
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


def test_c09_an_optimizer_built_before_conversion_still_trains_branch_0() -> None:
    model = ConvNet()
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dabnn.convert_to_dataset_aware(model, 2)
    assert model.bn1.bns[0].weight is before["bn1.weight"]
    assert model.conv1.weight is before["conv1.weight"]
    old = model.bn1.bns[0].weight.detach().clone()
    on(model, 0, image_batch()).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.bn1.bns[0].weight, old)


def test_c10_hooks_on_a_site_fire_for_every_branch_and_can_be_removed() -> None:
    model = ConvNet()
    fired: list[str] = []
    bn = model.bn1
    handles = [
        bn.register_forward_pre_hook(lambda *_: fired.append("pre")),
        bn.register_forward_pre_hook(lambda *_, **__: fired.append("pre kwargs"), with_kwargs=True),
        bn.register_forward_hook(lambda *_: fired.append("forward")),
        bn.register_full_backward_pre_hook(lambda *_: fired.append("pre backward")),
        bn.register_full_backward_hook(lambda *_: fired.append("backward")),
    ]
    dabnn.convert_to_dataset_aware(model, 3)
    for i in range(3):
        fired.clear()
        on(model, i, image_batch()).sum().backward()
        assert fired == ["pre", "pre kwargs", "forward", "pre backward", "backward"]
    for handle in handles:
        handle.remove()
    fired.clear()
    on(model, 0, image_batch()).sum().backward()
    assert fired == []


def test_c10_hooks_that_compute_the_tensors_of_a_layer_are_refused() -> None:
    model = ConvNet()
    prune.l1_unstructured(model.bn2, "weight", 0.5)
    assert_refused(model, r"bn2 \(BatchNorm2d\): its L1Unstructured hook")


def test_c10_custom_attributes_survive() -> None:
    model = ConvNet()
    model.bn1.tag = "stem"
    model.bn1.qconfig = None
    dabnn.convert_to_dataset_aware(model, 2)
    assert model.bn1.tag == "stem"
    assert [bn.tag for bn in model.bn1.bns] == ["stem", "stem"]


@pytest.mark.parametrize(
    "norm",
    [partial(nn.BatchNorm2d, momentum=None), partial(nn.BatchNorm2d, affine=False), without_beta],
    ids=["momentum=None", "affine=False", "bias=False"],
)
def test_c11_options_of_batch_norm_survive(norm) -> None:
    assert_drop_in(randomise(ConvNet(norm)), image_batch())


def test_c12_without_running_statistics_the_affine_parameters_are_private() -> None:
    assert_drop_in(ConvNet(lambda c: nn.BatchNorm2d(c, track_running_stats=False)), image_batch())


def test_c12_a_norm_without_any_tensor_is_skipped_with_a_reason() -> None:
    model = ConvNet()
    model.bn2 = nn.BatchNorm2d(6, affine=False, track_running_stats=False)
    report = dabnn.plan_conversion(model, 2)
    assert [(s.path, s.reason) for s in report.skipped] == [
        ("bn2", "holds neither statistics nor parameters")
    ]
    assert type(dabnn.convert_to_dataset_aware(model, 2).bn2) is nn.BatchNorm2d


def test_c13_all_dimensions() -> None:
    for size in [(), (5,), (5, 5), (2, 5, 5)]:
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(size)]
        assert_drop_in(randomise(nn.Sequential(norm(3))), torch.randn(4, 3, *size))


def test_c14_synchronised_norm_is_converted() -> None:
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(randomise(ConvNet()))
    converted = assert_drop_in(plain, image_batch())
    assert all(type(bn) is nn.SyncBatchNorm for bn in converted.bn1.bns)


@pytest.mark.parametrize(
    "synchronise", [nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm]
)
def test_c14_a_converted_model_can_be_synchronised(synchronise) -> None:
    model = aware()
    expected = [on(model, i, image_batch()) for i in range(3)]
    model = synchronise(model)
    assert all(type(bn) is nn.SyncBatchNorm for bn in model.bn1.bns)
    assert_equal([on(model, i, image_batch()) for i in range(3)], expected)


def test_c14_fused_activations_survive_the_synchronisation_of_timm() -> None:
    model = dabnn.convert_to_dataset_aware(nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4)), 2).eval()
    expected = [on(model, i, image_batch()) for i in range(2)]
    model = timm.layers.convert_sync_batchnorm(model)
    assert all(isinstance(bn, nn.SyncBatchNorm) for bn in model[1].bns)
    assert_equal([on(model, i, image_batch()) for i in range(2)], expected)
    assert type(dabnn.extract_dataset(model, 0)[1]) is timm.layers.SyncBatchNormAct


def test_c14_a_converted_model_can_be_frozen() -> None:
    model = aware()
    expected = [on(model, i, image_batch()) for i in range(3)]
    timm.layers.freeze_batch_norm_2d(model)
    for i in range(3):
        torch.testing.assert_close(on(model, i, image_batch()), expected[i])


def test_c15_frozen_statistics_are_skipped_silently() -> None:
    for frozen in (torchvision.ops.FrozenBatchNorm2d, timm.layers.FrozenBatchNormAct2d):
        report = dabnn.plan_conversion(nn.Sequential(nn.BatchNorm2d(3), frozen(3)), 2)
        assert report.skipped[0].reason == "frozen statistics"


@pytest.mark.parametrize(
    "norm", [lambda: nn.InstanceNorm2d(3, track_running_stats=True), lambda: timm.layers.EvoNorm2dB0(3)]
)
def test_c15_other_norms_with_statistics_are_skipped_with_a_warning(norm) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), norm())
    with pytest.warns(DabnnWarning, match=r"1 modules .* first '1'") as caught:
        report = dabnn.plan_conversion(model, 2)
    assert len(caught) == 1
    assert report.skipped[0].reason == "running statistics, but not a batch norm"
    with pytest.warns(DabnnWarning):
        dabnn.convert_to_dataset_aware(model, 2)
    assert not isinstance(model[1], dabnn.DatasetSwitch)


def test_c16_models_with_other_norms_are_told_which() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.LayerNorm(3), nn.GroupNorm(1, 3))
    assert_refused(model, "2 LayerNorm, 1 GroupNorm", NoBatchNormFoundError)


def test_c17_one_norm_under_two_names_stays_one() -> None:
    converted = assert_drop_in(randomise(TwiceNamed()), image_batch())
    assert converted.bn is converted.again
    assert isinstance(converted.bn, dabnn.DatasetAwareBatchNorm)
    assert dabnn.plan_conversion(TwiceNamed(), 2).norms[0].aliases == ("again",)


def test_c17_one_norm_in_two_parents_stays_one() -> None:
    converted = assert_drop_in(randomise(TwoParents()), image_batch())
    assert converted.a[1] is converted.b[1]
    plain = dabnn.extract_dataset(converted, 1)
    assert plain.a[1] is plain.b[1]


def test_c18_traced_models_follow_the_selection() -> None:
    model = aware()
    traced = torch.fx.symbolic_trace(model)
    for i in range(3):
        with dabnn.use_dataset(model, i):
            assert_equal(traced(image_batch()), model(image_batch()))


def test_c18_a_graph_module_converts() -> None:
    assert_drop_in(torch.fx.symbolic_trace(randomise(ConvNet()).eval()), image_batch())


def test_c19_scripted_models_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated, but models in that form exist
        scripted = torch.jit.script(ConvNet())
        traced = torch.jit.trace(ConvNet().eval(), image_batch())
    assert_refused(scripted, r"the model \(RecursiveScriptModule\) is scripted")
    assert_refused(nn.Sequential(nn.BatchNorm2d(3), scripted), "1 .*is scripted")
    assert_refused(traced, "is scripted")


def test_c20_compiled_models_are_refused() -> None:
    assert_refused(torch.compile(ConvNet()), "is compiled; convert first, then compile")
    model = ConvNet()
    model.compile()
    assert_refused(model, "is compiled")
    model = nn.Sequential(nn.BatchNorm2d(3), ConvNet())
    model[1].compile()
    assert_refused(model, r"1 \(ConvNet\) is compiled")


def test_c20_models_wrapped_for_parallel_training_are_refused() -> None:
    with process_group():
        assert_refused(nn.parallel.DistributedDataParallel(ConvNet()), "the model .DistributedDataParallel.")
        assert_refused(nn.DataParallel(ConvNet()), "DataParallel. is wrapped for parallel training")
        sharded = fully_shard(ConvNet(), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ConversionError, match="is wrapped for parallel training"):
            dabnn.convert_to_dataset_aware(sharded, 2)


def test_c20_exported_models_hold_no_norm() -> None:
    exported = torch.export.export(ConvNet().eval(), (image_batch(),))
    with pytest.raises(ConversionError, match=r"expected a torch\.nn\.Module, got ExportedProgram"):
        dabnn.convert_to_dataset_aware(exported, 2)
    with pytest.raises(NoBatchNormFoundError):
        dabnn.convert_to_dataset_aware(exported.module(), 2)


def test_c21_norms_in_fused_quantisation_modules_are_skipped() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fused = torch.ao.nn.intrinsic.qat.ConvBn2d(
                3, 3, 1, qconfig=torch.ao.quantization.get_default_qat_qconfig()
            )
            self.bn = nn.BatchNorm2d(3)

    report = dabnn.plan_conversion(Net(), 2)
    assert [site.path for site in report.norms] == ["bn"]
    assert ("fused.bn", "part of a fused quantisation module") in [(s.path, s.reason) for s in report.skipped]


def test_c22_lazy_norms_are_refused() -> None:
    assert_refused(nn.Sequential(nn.Conv2d(3, 3, 1), nn.LazyBatchNorm2d()), r"1 \(LazyBatchNorm2d\) is lazy")


def test_c23_a_parametrised_norm_converts() -> None:
    class Softplus(nn.Module):
        def forward(self, x):
            return nn.functional.softplus(x)

    model = ConvNet()
    nn.utils.parametrize.register_parametrization(model.bn1, "weight", Softplus())
    converted = assert_drop_in(model, image_batch())
    assert converted.bn1.bns[1].parametrizations.weight.original is not (
        converted.bn1.bns[0].parametrizations.weight.original
    )


def test_c24_constants_are_forwarded_and_tensors_are_not() -> None:
    model = aware(ConvNet(lambda c: nn.BatchNorm2d(c, eps=1e-3)))
    assert (model.bn1.num_features, model.bn1.eps, model.bn1.affine) == (4, 1e-3, True)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        with pytest.raises(AttributeError, match="extract_dataset"):
            getattr(model.bn1, name)


def test_c24_fusing_works_on_the_extracted_model() -> None:
    model = aware(timm.create_model("repghostnet_050"), 2)
    with pytest.raises(AttributeError, match="extract_dataset"):
        timm.utils.reparameterize_model(model)
    plain = dabnn.extract_dataset(model, 1).double()
    fused = timm.utils.reparameterize_model(plain)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(fused(x), plain(x))
    assert len(fused.state_dict()) < len(plain.state_dict())


def test_c25_a_plain_checkpoint_loads_strictly_into_every_branch() -> None:
    plain = randomise(ConvNet()).eval()
    model = dabnn.convert_to_dataset_aware(ConvNet(), 3).eval()
    model.load_state_dict(plain.state_dict())
    for i in range(3):
        assert_equal(on(model, i, image_batch()), plain(image_batch()))


def test_c25_another_number_of_datasets_names_both() -> None:
    with pytest.raises(CheckpointError, match=r"bn1: the checkpoint holds 2 datasets, the model 3"):
        aware(n=3).load_state_dict(aware(n=2).state_dict())


def test_c26_idioms_that_freeze_norms_reach_the_branches() -> None:
    model = aware().train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    before = copy.deepcopy(model.state_dict())
    on(model, 1, image_batch())
    assert_equal(dict(model.state_dict()), dict(before))


def test_c27_weight_decay_groups_leave_norms_out() -> None:
    model = aware()
    assert all(p.ndim == 1 for p in model.bn1.parameters())
    groups = timm.optim.param_groups_weight_decay(model, 0.1)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not any(id(p) in decayed for p in model.bn1.parameters())
    assert id(model.conv1.weight) in decayed


def test_c28_parents_that_guard_their_children_convert() -> None:
    assert_drop_in(randomise(Stubborn()), image_batch())
