"""What a fused forward refuses, since it would not equal separate forwards."""

from __future__ import annotations

import pytest
import torch
from small_runs import (
    CLASSES,
    NAMES,
    SmallNet,
    assert_same_step,
    batches,
    draws,
    plain_sgd,
    small_model,
    step_once,
)
from torch import Tensor, nn
from torch.nn import functional as F

import dabnn
from dabnn.errors import FusedForwardError, NonFiniteLossError
from dabnn.training import AlternationTrainer, Callback, Draw


def fused_trainer(model: nn.Module) -> AlternationTrainer:
    return AlternationTrainer(
        model, dict.fromkeys(dabnn.dataset_names(model), ()), optimizer=plain_sgd(model), backward="fused"
    )


def convert(model: nn.Module, **options: object) -> nn.Module:
    return dabnn.convert_to_dataset_aware(
        model, dataset_names=NAMES, num_classes=CLASSES, classifier="classifier", **options
    )


def fused_step(model: nn.Module, items: list[Draw] | None = None) -> dict[str, float]:
    return fused_trainer(model).train_step(items or draws())


def test_shared_batch_norm_in_train_mode() -> None:
    model = convert(SmallNet(), skip="body.1")
    with pytest.raises(FusedForwardError, match=r"body\.1 \(BatchNorm2d\).*per_dataset"):
        fused_step(model)


def test_mixed_batches_give_the_gradient_of_joint_training_in_plain_torch() -> None:
    model = convert(SmallNet(), skip="*").double()
    items = draws(torch.float64)
    actual, losses = step_once(model, items, backward="mixed")
    trunk = SmallNet().double()
    trunk.load_state_dict(
        {key: value for key, value in model.state_dict().items() if "classifier" not in key}, strict=False
    )
    heads = [dabnn.extract_dataset(model, name).classifier for name in NAMES]
    features = trunk.body(trunk.stem(torch.cat([item.batch[0] for item in items])))
    parts = features.split([len(item.batch[0]) for item in items])
    expected = [
        F.cross_entropy(head(part), item.batch[1], ignore_index=255)
        for head, part, item in zip(heads, parts, items, strict=True)
    ]
    sum(expected).backward()
    assert list(losses.values()) == pytest.approx([loss.item() for loss in expected])
    assert torch.allclose(actual.stem[0].weight.grad, trunk.stem[0].weight.grad)
    assert torch.allclose(actual.body[1].running_var, trunk.body[1].running_var)


def test_frozen_shared_batch_norm_is_fine() -> None:
    model = convert(SmallNet(), skip="body.1").double()
    model.body[1].eval()
    expected, _ = step_once(model, draws(torch.float64))
    actual, _ = step_once(model, draws(torch.float64), backward="fused")
    assert_same_step(actual, expected, 1e-9)


def test_a_shared_norm_that_a_callback_puts_into_train_mode_between_steps() -> None:
    class Thaw(Callback):
        def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
            if trainer.step == 2:
                trainer.model.body[1].train()

    model = convert(SmallNet(), skip="body.1")
    model.body[1].eval()
    trainer = AlternationTrainer(model, batches(), backward="fused", callbacks=[Thaw()])
    with pytest.raises(FusedForwardError, match=r"body\.1"):
        trainer.fit(max_steps=5)
    assert trainer.step == 2


def test_a_shared_norm_that_replaces_another_between_two_fits() -> None:
    model = convert(SmallNet(), skip="body.1")
    model.body[1].eval()
    trainer = AlternationTrainer(model, batches(), backward="fused", optimizer=plain_sgd(model), callbacks=[])
    trainer.fit(max_steps=1)
    model.body[1] = nn.BatchNorm2d(6)
    with pytest.raises(FusedForwardError, match=r"body\.1"):
        trainer.fit(max_steps=2)


def test_shared_batch_norm_without_statistics_even_in_eval_mode() -> None:
    net = SmallNet()
    net.body[1] = nn.BatchNorm2d(6, track_running_stats=False)
    model = convert(net, skip="body.1")
    model.body[1].eval()
    with pytest.raises(FusedForwardError, match=r"body\.1"):
        fused_step(model)


@pytest.mark.filterwarnings("ignore:.*keep running statistics but are no batch norms")
def test_instance_norm_only_where_it_collects_statistics() -> None:
    net = SmallNet()
    net.body[1] = nn.InstanceNorm2d(6)
    fused_step(convert(net))
    net = SmallNet()
    net.body[1] = nn.InstanceNorm2d(6, track_running_stats=True)
    with pytest.raises(FusedForwardError, match=r"body\.1 \(InstanceNorm2d\)"):
        fused_step(convert(net))


def test_inputs_of_different_size_name_each_dataset() -> None:
    items = [*draws(side=8)[:2], draws(side=12)[2]]
    with pytest.raises(FusedForwardError, match=r"one size.*'b': \(2, 3, 8, 8\).*'c': \(2, 3, 12, 12\)"):
        fused_step(small_model(), items)


def test_inputs_that_are_no_tensors() -> None:
    items = [Draw(d.dataset, ({"points": d.batch[0]}, d.batch[1])) for d in draws()]
    with pytest.raises(FusedForwardError, match="dict"):
        fused_step(small_model(), items)


def test_norm_whose_batch_is_not_the_fused_batch() -> None:
    class Folded(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.cat([x, x.flip(-1)]))[: len(x)]

    with pytest.raises(FusedForwardError, match="batch of 12 where the fused batch holds 6"):
        fused_step(convert(Folded()))


@pytest.mark.parametrize("wrap", ["list", "scalar"])
def test_output_that_cannot_be_divided(wrap: str) -> None:
    class Odd(SmallNet):
        def forward(self, x: Tensor) -> object:
            output = super().forward(x)
            return [output] if wrap == "list" else output.sum()

    with pytest.raises(FusedForwardError, match="cannot divide an output"):
        fused_step(convert(Odd()))


def test_output_with_other_channels_than_the_classifiers() -> None:
    class Doubled(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return torch.cat([output, output], dim=1)

    with pytest.raises(FusedForwardError, match=r"width \[3, 5, 2\], but the model returned 10 channels"):
        fused_step(convert(Doubled()))


class WithSoftmax(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def test_layer_that_mixes_the_channels_of_classifiers_of_different_width() -> None:
    with pytest.raises(FusedForwardError, match="mixes channels: the 3 logits of dataset 'a', padded to 5"):
        fused_step(convert(WithSoftmax()))


def test_such_a_layer_is_exact_where_the_widths_agree() -> None:
    model = dabnn.convert_to_dataset_aware(
        WithSoftmax(), dataset_names=NAMES, num_classes=[5, 5, 5], classifier="classifier"
    ).double()
    expected, _ = step_once(model, draws(torch.float64))
    actual, _ = step_once(model, draws(torch.float64), backward="fused")
    assert_same_step(actual, expected, 1e-9)


def test_layer_that_keeps_channels_apart_is_exact() -> None:
    class Upsampled(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(super().forward(x), scale_factor=2, mode="bilinear").sigmoid()

    model = convert(Upsampled()).double()
    expected, _ = step_once(model, draws(torch.float64))
    actual, _ = step_once(model, draws(torch.float64), backward="fused")
    assert_same_step(actual, expected, 1e-9)


@pytest.mark.parametrize("where", ["input", "weights"])
def test_a_model_that_gives_nan_is_not_blamed_on_the_padding(where: str) -> None:
    model, items = small_model(), draws()
    if where == "input":
        items[0].batch[0][0, 0, 0, 0] = torch.nan
    else:
        nn.init.constant_(model.stem[0].weight, torch.nan)
    with pytest.raises(NonFiniteLossError, match="dataset 'a' is nan in step 1"):
        fused_step(model, items)


def test_a_classifier_that_consists_of_layers() -> None:
    def two_layers(old: nn.Module, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(6, 7, 1), nn.ReLU(), nn.Conv2d(7, classes, 1))

    model = convert(SmallNet(), head_factory=two_layers).double()
    expected, _ = step_once(model, draws(torch.float64))
    actual, _ = step_once(model, draws(torch.float64), backward="fused")
    assert_same_step(actual, expected, 1e-9)


def test_a_classifier_without_layers_whose_width_is_unknown() -> None:
    class Matrix(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(classes, 6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bchw,kc->bkhw", x, self.matrix)

    model = convert(SmallNet(), head_factory=lambda old, classes: Matrix(classes))
    with pytest.raises(FusedForwardError, match=r"width \[None, None, None\]"):
        fused_step(model)
