"""What one step does besides the gradient: refuse NaN, scale, clip, average, keep precision."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import small_runs
import timm
import torch
from small_runs import (
    NAMES,
    Batch,
    SmallNet,
    assert_equal_state,
    batches,
    distance,
    draws,
    gradient,
    plain_sgd,
    segmentation_batch,
    small_model,
    step_once,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

import dabnn
from dabnn.errors import ConfigError, DataError, NonFiniteLossError
from dabnn.training import AlternationTrainer, Draw, cross_entropy, latest_checkpoint

MODES = pytest.mark.parametrize("backward", ["per_dataset", "joint", "fused"])


def trainer_for(model: nn.Module, **options: Any) -> AlternationTrainer:
    options = {"optimizer": plain_sgd(model)} | options
    return AlternationTrainer(model, batches(), **options)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return deepcopy(dict(model.named_parameters()))


@MODES
def test_nan_loss_names_dataset_and_step_and_makes_no_step(backward: str, tmp_path: Path) -> None:
    poisoned = batches(6)
    poisoned["b"][4][0][:] = torch.nan
    model = small_model()
    trainer = AlternationTrainer(
        model,
        poisoned,
        optimizer=plain_sgd(model),
        backward=backward,  # type: ignore[arg-type]
        run_dir=tmp_path,
        checkpoint_every=2,
    )
    with pytest.raises(NonFiniteLossError, match=r"'b' is nan in step 5; .*step_00000004"):
        trainer.fit(max_steps=6)
    assert trainer.step == 4
    assert all(p.isfinite().all() and p.grad is None for p in model.parameters())
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_00000002", "step_00000004"]
    fresh = small_model(seed=1)
    healthy = AlternationTrainer(fresh, batches(6), optimizer=plain_sgd(fresh), run_dir=tmp_path)
    with pytest.warns(dabnn.errors.DabnnWarning, match="has no state_dict"):
        healthy.fit(max_steps=6, resume=True)
    assert healthy.step == 6
    assert all(value.isfinite().all() for value in fresh.state_dict().values())


def test_infinite_loss_under_update_by_dataset_keeps_the_steps_before_it() -> None:
    model = small_model()
    start = state_of(model)
    trainer = trainer_for(
        model,
        update="dataset",
        loss={"a": cross_entropy, "b": lambda y, _: y.sum() * math.inf, "c": cross_entropy},
    )
    with pytest.raises(NonFiniteLossError, match=r"'b' is (nan|inf|-inf) in step 1"):
        trainer.fit(max_steps=1)
    after = state_of(model)
    assert all(p.isfinite().all() for p in after.values())
    moved = {name for name in after if not torch.equal(after[name], start[name])}
    assert any(".heads.0." in name for name in moved)
    assert not any(".heads.1." in name or ".heads.2." in name for name in moved)


def with_scaler(trainer: AlternationTrainer, scale: float = 1024.0) -> torch.amp.GradScaler:
    """Give a CPU trainer the loss scaling that fp16 has on a GPU."""
    trainer._run.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer._run.scaler


def infinite_gradient(output: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(output, batch) + (output * 0).abs().sum().sqrt()


@MODES
def test_an_infinite_gradient_of_one_dataset_skips_the_step_for_all(backward: str) -> None:
    model = small_model()
    trainer = AlternationTrainer(
        model,
        batches(8),
        loss={"a": cross_entropy, "b": infinite_gradient, "c": cross_entropy},
        backward=backward,  # type: ignore[arg-type]
        clip_norm=1.0,
        ema_decay=0.5,
    )
    scaler = with_scaler(trainer)
    start, rate = state_of(model), trainer.optimizer.param_groups[0]["lr"]
    trainer.fit(max_steps=1)
    assert_equal_state(state_of(model), start)
    assert scaler.get_scale() == 512
    assert trainer.optimizer.param_groups[0]["lr"] == rate
    assert trainer.scheduler is not None
    assert trainer.scheduler.last_epoch == 0


@MODES
def test_one_loss_scale_for_all_datasets_changes_nothing(backward: str) -> None:
    model = small_model().double()
    expected, _ = step_once(model, draws(torch.float64), clip_norm=0.1)
    trainer = trainer_for(model, backward=backward, clip_norm=0.1)
    with_scaler(trainer)
    trainer.train_step(draws(torch.float64))
    assert distance(gradient(model), gradient(expected)) < 1e-9
    assert distance(dict(model.named_parameters()), dict(expected.named_parameters())) < 1e-9


def test_loss_scaling_steps_the_schedule_without_warnings() -> None:
    trainer = AlternationTrainer(small_model(), batches())
    with_scaler(trainer)
    trainer.fit(max_steps=4)
    assert trainer.optimizer.param_groups[0]["lr"] == 0


@MODES
def test_bfloat16_trains_with_weights_in_full_precision(backward: str) -> None:
    model = small_model()
    seen = set()
    model.body[0].register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    trainer = trainer_for(
        model, precision="bf16", backward=backward, optimizer=Adam(model.parameters(), 0.02)
    )
    losses = [trainer.train_step(draws()) for _ in range(15)]
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(losses[-1][name] < 0.8 * losses[0][name] for name in NAMES)


def test_trainers_of_different_precision_live_side_by_side() -> None:
    seen: dict[str, set[torch.dtype]] = {"bf16": set(), "no": set()}
    trainers = {}
    for precision in ("bf16", "no"):
        model = small_model()
        model.body[0].register_forward_hook(
            lambda module, args, output, key=precision: seen[key].add(output.dtype)
        )
        trainers[precision] = trainer_for(model, precision=precision, clip_norm=1.0)
    for precision in ("bf16", "no", "bf16"):
        trainers[precision].train_step(draws())
    assert seen == {"bf16": {torch.bfloat16}, "no": {torch.float32}}


@MODES
def test_bfloat16_is_torchs_autocast_around_forward_and_loss(backward: str) -> None:
    """Against a loop in plain torch; `fused` concatenates, so its losses are rounded in another order."""
    model, other = small_model(), small_model()
    trainer = trainer_for(model, precision="bf16", backward=backward)
    optimizer = plain_sgd(other)
    for k in range(3):
        items = [Draw(name, data[k]) for name, data in batches().items()]
        losses = trainer.train_step(items)
        optimizer.zero_grad()
        for draw in items:
            with dabnn.use_dataset(other, draw.dataset), torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(other(draw.batch[0]), draw.batch)
            if backward == "fused":
                assert losses[draw.dataset] == pytest.approx(loss.item(), rel=1e-2)
            elif k == 0 or backward == "per_dataset":
                assert losses[draw.dataset] == loss.item()
            loss.backward()
        optimizer.step()
    if backward == "per_dataset":
        assert_equal_state(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("before", ["", "Accelerator(mixed_precision='bf16')"])
def test_a_launcher_or_another_accelerator_does_not_change_the_precision(before: str) -> None:
    program = f"""
from accelerate import Accelerator
{before}
from small_runs import draws, small_model
from dabnn.training import AlternationTrainer
for precision in ("no", "bf16", "no"):
    model, seen = small_model(), set()
    model.body[0].register_forward_hook(lambda module, args, output: seen.add(str(output.dtype)))
    AlternationTrainer(model, dict.fromkeys("abc", ()), precision=precision).train_step(draws())
    print(*seen)
"""
    paths = [str(Path(small_runs.__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ACCELERATE_MIXED_PRECISION": "bf16"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["torch.float32", "torch.bfloat16", "torch.float32"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        trainer_for(small_model(), precision="fp16")


@pytest.mark.gpu
@MODES
def test_fp16_trains_on_a_gpu(backward: str) -> None:
    model = small_model()
    trainer = trainer_for(
        model, precision="fp16", backward=backward, optimizer=Adam(model.parameters(), 0.02)
    )
    losses = [trainer.train_step(draws()) for _ in range(15)]
    assert all(losses[-1][name] < 0.8 * losses[0][name] for name in NAMES)


@MODES
def test_clipping_acts_on_the_summed_gradient(backward: str) -> None:
    model = small_model().double()
    unclipped, _ = step_once(model, draws(torch.float64))
    norm = sum(g.square().sum() for g in gradient(unclipped).values()) ** 0.5
    clipped, _ = step_once(model, draws(torch.float64), backward=backward, clip_norm=float(norm) / 4)
    expected = {name: g / 4 for name, g in gradient(unclipped).items()}
    assert distance(gradient(clipped), expected) < 1e-5  # torch adds 1e-6 to the norm


def test_d11_ema_is_the_average_of_weights_and_statistics() -> None:
    model = small_model()
    trainer = trainer_for(model, ema_decay=0.9)
    assert trainer.ema is not None
    expected = deepcopy(model.state_dict())
    for k in range(3):
        trainer.train_step([Draw(name, items[k]) for name, items in batches().items()])
        for key, value in model.state_dict().items():
            average = 0.9 * expected[key] + 0.1 * value if value.is_floating_point() else value
            expected[key] = average
    assert any("running_mean" in key for key in expected)
    torch.testing.assert_close(dict(trainer.ema.module.state_dict()), dict(expected))
    assert not trainer.ema.module.training


def test_ema_averages_a_tensor_with_two_names_once() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model = dabnn.convert_to_dataset_aware(nn.Sequential(net, nn.ReLU(), net), 2)
    trainer = AlternationTrainer(
        model,
        {"dataset_1": [segmentation_batch(3)]},
        optimizer=plain_sgd(model),
        ema_decay=0.9,
    )
    assert trainer.ema is not None
    start, mean = model[0][0].weight.detach().clone(), model[0][1].bns[1].running_mean.clone()
    trainer.fit(max_steps=1)
    average = trainer.ema.module
    torch.testing.assert_close(average[2][0].weight, 0.9 * start + 0.1 * model[0][0].weight)
    torch.testing.assert_close(
        average[2][1].bns[1].running_mean, 0.9 * mean + 0.1 * model[0][1].bns[1].running_mean
    )


def test_ema_follows_tensors_that_are_replaced_or_loaded() -> None:
    class Centre(nn.Module):
        """Keeps a buffer that every forward replaces, and one that is not saved."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))
            self.register_buffer("grid", torch.zeros(()), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.mean = x.detach().mean()
            return x

    net = SmallNet()
    net.dropout = Centre()
    model = dabnn.convert_to_dataset_aware(
        net, dataset_names=NAMES, num_classes=[3, 5, 2], classifier="classifier"
    )
    trainer = trainer_for(model, ema_decay=0.5)
    assert trainer.ema is not None
    expected = deepcopy(model.state_dict())
    for k in range(3):
        trainer.train_step([Draw(name, items[k]) for name, items in batches().items()])
        for key, value in model.state_dict().items():
            expected[key] = 0.5 * expected[key] + 0.5 * value if value.is_floating_point() else value
        model.load_state_dict(deepcopy(model.state_dict()), assign=k == 0)
        trainer.optimizer.param_groups[0]["params"] = list(model.parameters())
    assert model.dropout.mean != 0
    torch.testing.assert_close(dict(trainer.ema.module.state_dict()), dict(expected))


@MODES
def test_channels_last_gives_the_same_losses(backward: str) -> None:
    torch.manual_seed(0)
    model = smp.PSPNet("resnet18", encoder_weights=None, psp_dropout=0)
    model = dabnn.convert_to_dataset_aware(model, dataset_names=NAMES, num_classes=[3, 5, 2])
    items = [Draw(d.dataset, {"image": d.batch[0], "mask": d.batch[1]}) for d in draws(side=32)]
    _, expected = step_once(model, items, backward=backward)
    converted, losses = step_once(model, items, backward=backward, channels_last=True)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert converted.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@MODES
def test_d10_batch_of_one_under_a_pooled_norm_names_dataset_and_step(backward: str) -> None:
    net = SmallNet()
    net.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6), nn.Upsample(size=8))
    model = dabnn.convert_to_dataset_aware(
        net, dataset_names=NAMES, num_classes=[3, 5, 2], classifier="classifier"
    )
    data = batches()
    data["b"][1] = segmentation_batch(5, size=1)
    trainer = AlternationTrainer(model, data, backward=backward)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"in step 2, dataset 'b': .*single value per channel.*drop_last"):
        trainer.fit(max_steps=3)


@MODES
def test_label_out_of_range_names_dataset_and_step(backward: str) -> None:
    data = batches()
    data["c"][1][1][0, 3, 3] = 2
    trainer = AlternationTrainer(small_model(), data, backward=backward)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"in step 2, dataset 'c': .*class ids \[2\].* 2 classes"):
        trainer.fit(max_steps=3)


@MODES
def test_malformed_batch_names_dataset_and_step(backward: str) -> None:
    data = {"a": [segmentation_batch(3)], "b": [{"x": 1}]}
    for channels_last in (False, True):
        trainer = AlternationTrainer(
            small_model(),
            data,
            backward=backward,
            channels_last=channels_last,  # type: ignore[arg-type]
        )
        with pytest.raises(DataError, match="in step 1, dataset 'b': a batch needs the key 'image'"):
            trainer.fit(max_steps=1)


@MODES
def test_other_errors_keep_their_type_and_note_the_dataset(backward: str) -> None:
    def broken(output: Tensor, batch: Batch) -> Tensor:
        raise KeyError("weights")

    trainer = trainer_for(
        small_model(), loss=dict.fromkeys(NAMES, cross_entropy) | {"b": broken}, backward=backward
    )
    with pytest.raises(KeyError, match="weights") as info:
        trainer.fit(max_steps=1)
    assert info.value.__notes__ == ["This was raised for a batch of dataset 'b'."]


@MODES
@pytest.mark.parametrize(("value", "kind"), [(3.0, "type float"), (torch.zeros(2, 2), r"shape \(2, 2\)")])
def test_a_loss_that_is_no_scalar_tensor_is_named(backward: str, value: object, kind: str) -> None:
    losses = dict.fromkeys(NAMES, cross_entropy) | {"c": lambda output, batch: value}
    with pytest.raises(ConfigError, match=f"the loss of dataset 'c' must return a scalar tensor, got {kind}"):
        trainer_for(small_model(), loss=losses, backward=backward).fit(max_steps=1)


def test_each_dataset_has_its_own_loss() -> None:
    """Any task: here one dataset is segmented, and one regresses its mean brightness."""

    def regress(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(output.mean((1, 2, 3)), batch["brightness"])

    model = dabnn.convert_to_dataset_aware(
        SmallNet(), dataset_names=["masks", "numbers"], num_classes=[3, 1], classifier="classifier"
    )
    images = torch.rand(4, 3, 8, 8)
    data = {
        "masks": [segmentation_batch(3, size=4)],
        "numbers": [{"image": images, "brightness": images.mean((1, 2, 3))}],
    }
    trainer = AlternationTrainer(
        model,
        data,
        loss={"masks": cross_entropy, "numbers": regress},
        optimizer=Adam(model.parameters(), 0.02),
    )
    first = trainer.train_step(trainer.loaders.draw())
    trainer.fit(max_steps=40)
    last = trainer.train_step(trainer.loaders.draw())
    assert last["masks"] < 0.9 * first["masks"]
    assert last["numbers"] < 0.5 * first["numbers"]


def test_classification_with_the_same_trainer() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10)
    model = dabnn.convert_to_dataset_aware(model, dataset_names=["a", "b"], num_classes=[4, 2])
    data = {
        name: [(torch.randn(8, 3, 32, 32), torch.randint(classes, (8,)))]
        for name, classes in (("a", 4), ("b", 2))
    }
    trainer = AlternationTrainer(model, data, optimizer=SGD(model.parameters(), 0.02, momentum=0.9))
    first = trainer.train_step(trainer.loaders.draw())
    trainer.fit(max_steps=12)
    last = trainer.train_step(trainer.loaders.draw())
    assert all(last[name] < 0.5 * first[name] for name in data)


def test_nan_without_run_dir_says_that_there_is_no_checkpoint(tmp_path: Path) -> None:
    trainer = trainer_for(small_model(), loss=lambda output, batch: output.sum() * math.nan)
    with pytest.raises(NonFiniteLossError, match="Last checkpoint: None"):
        trainer.fit(max_steps=1)
    assert latest_checkpoint(tmp_path) is None


@MODES
def test_a_gradient_that_is_not_finite_is_refused_before_it_reaches_the_weights(
    backward: str, tmp_path: Path
) -> None:
    def loss(output: Tensor, batch: Any) -> Tensor:
        poison = (output * 0).sum().sqrt() if trainer.step == 4 else 0  # 0, with a gradient of NaN
        return cross_entropy(output, batch) + poison

    model = small_model()
    trainer = trainer_for(
        model, backward=backward, loss={"a": cross_entropy, "b": loss, "c": cross_entropy}, run_dir=tmp_path
    )
    with pytest.raises(NonFiniteLossError, match=r"the gradient of \S+ is not finite in step 5"):
        trainer.fit(max_steps=6)
    assert trainer.step == 4
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert all(p.grad is None for p in model.parameters())
