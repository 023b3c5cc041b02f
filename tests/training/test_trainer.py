"""What the trainer checks before it starts, how long it trains, and how it evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    NAMES,
    Blobs,
    SmallNet,
    assert_equal_state,
    batches,
    plain_sgd,
    seeded_loaders,
    segmentation_batch,
    small_model,
)
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

import dabnn
from dabnn.data import SeededLoader
from dabnn.errors import ConfigError, DabnnError, DataError, NotDatasetAwareError, UnknownDatasetError
from dabnn.evaluation import SegmentationMetric, evaluate_model
from dabnn.training import AlternationTrainer, Callback, cross_entropy, latest_checkpoint


def test_it_is_in_the_public_namespace() -> None:
    assert dabnn.AlternationTrainer is AlternationTrainer
    assert "AlternationTrainer" in dir(dabnn)
    assert "AlternationTrainer" in dabnn.__all__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backward": "both"}, r"backward must be one of \('per_dataset', .*'mixed'\), got 'both'"),
        ({"update": "never"}, "update must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"clip_norm": 0}, "clip_norm must be positive"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"ema_decay": -0.1}, "ema_decay must be in"),
        ({"checkpoint_every": 5}, "run_dir"),
        ({"checkpoint_every": 0, "run_dir": "x"}, "positive"),
        ({"keep": 0}, "keep must be a positive number of checkpoints, got 0"),
        ({"keep": 1.5}, "keep must be a positive number of checkpoints"),
        ({"activation_checkpointing": True, "backward": "joint"}, "use backward='per_dataset'"),
        ({"loss": {"a": cross_entropy}}, r"losses are given for \['a'\], loaders for \['a', 'b', 'c'\]"),
        ({"weights": {"d": 1.0}}, "weights names unknown datasets"),
        ({"ratios": {"a": 0}}, "must be a positive number of batches"),
        ({"loaders": {}}, r"no loaders were given; the model knows \['a', 'b', 'c'\]"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    loaders = options.pop("loaders", batches())
    with pytest.raises(ConfigError, match=message):
        AlternationTrainer(small_model(), loaders, **options)


def test_bad_models_and_names() -> None:
    with pytest.raises(UnknownDatasetError, match=r"'kitti'.*0: 'a', 1: 'b', 2: 'c'"):
        AlternationTrainer(small_model(), {"kitti": []})
    with pytest.raises(NotDatasetAwareError, match="convert_to_dataset_aware"):
        AlternationTrainer(SmallNet(), {"a": []})


def test_parameters_missing_from_the_optimizer() -> None:
    net = SmallNet()
    optimizer = AdamW(net.parameters())
    model = dabnn.convert_to_dataset_aware(net, 2)
    with pytest.raises(
        ConfigError, match=r"4 trainable parameters .*first 'stem\.1\.bns\.1\.weight'; convert"
    ):
        AlternationTrainer(model, {"dataset_0": []}, optimizer=optimizer)
    for parameter in dabnn.branch_parameters(model, 1):
        parameter.requires_grad_(False)
    AlternationTrainer(model, {"dataset_0": []}, optimizer=optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either max_steps or epochs"),
        ({"max_steps": 1, "epochs": 1}, "either max_steps or epochs"),
        ({"max_steps": 0}, "positive integer, got 0"),
        ({"max_steps": 1.5}, "positive integer"),
        ({"epochs": -1}, "positive integer"),
        ({"epochs": 1, "epoch_length": "mean"}, "longest"),
    ],
)
def test_bad_lengths(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlternationTrainer(small_model(), batches()).fit(**arguments)


def test_epochs_count_by_the_longest_or_shortest_dataset() -> None:
    data = batches(5)
    data["b"] = data["b"][:2]
    for length, steps in (("longest", 10), ("shortest", 4)):
        trainer = AlternationTrainer(small_model(), data)
        trainer.fit(epochs=2, epoch_length=length)  # type: ignore[arg-type]
        assert trainer.step == trainer.max_steps == steps


def test_an_iterable_without_length_trains_for_steps() -> None:
    class Endless:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield segmentation_batch(3)

    trainer = AlternationTrainer(small_model(), {"a": Endless()})
    trainer.fit(max_steps=2)
    assert trainer.step == 2
    with pytest.raises(ConfigError, match="no length"):
        AlternationTrainer(small_model(), {"a": Endless()}).fit(epochs=1)


def test_empty_loader_is_named() -> None:
    with pytest.raises(DataError, match="'b' has no more batches"):
        AlternationTrainer(small_model(), batches() | {"b": []}).fit(max_steps=1)
    with pytest.raises(DataError, match="'b' is empty"):
        AlternationTrainer(small_model(), batches() | {"b": []}).fit(epochs=1)


class Rates(Callback):
    """Collects the learning rate and momentum that each step was made with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_fit_start(self, trainer: AlternationTrainer) -> None:
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])

    def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])


def test_default_recipe_has_the_papers_numbers() -> None:
    rates = Rates()
    trainer = AlternationTrainer(small_model(), batches(), callbacks=[rates])
    trainer.fit(max_steps=20)
    assert isinstance(trainer.optimizer, SGD)
    group = trainer.optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
    assert rates.rates == pytest.approx([0.01 * (1 - k / 20) ** 0.9 for k in range(21)])


def test_ones_own_optimizer_has_a_constant_rate_or_ones_own_schedule() -> None:
    rates = Rates()
    model = small_model()
    AlternationTrainer(model, batches(), optimizer=plain_sgd(model), callbacks=[rates]).fit(max_steps=3)
    assert rates.rates == [0.1] * 4
    rates = Rates()
    model = small_model()
    AlternationTrainer(
        model,
        batches(),
        optimizer=AdamW(model.parameters()),
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, max_lr=1.0, total_steps=steps + 1),
        callbacks=[rates],
    ).fit(max_steps=9)
    assert max(rates.rates) == pytest.approx(1.0, rel=0.1)
    assert rates.rates[-1] < 1e-4


def test_fit_goes_on_where_it_stopped() -> None:
    model = small_model()
    trainer = AlternationTrainer(model, batches(), optimizer=plain_sgd(model))
    trainer.fit(max_steps=2)
    trainer.fit(max_steps=2)
    assert trainer.step == 2
    trainer.fit(max_steps=5)
    other = small_model()
    AlternationTrainer(other, batches(), optimizer=plain_sgd(other)).fit(max_steps=5)
    assert_equal_state(model.state_dict(), other.state_dict())


def test_a_schedule_is_not_silently_used_beyond_its_end() -> None:
    trainer = AlternationTrainer(small_model(), batches())
    trainer.fit(max_steps=2)
    with pytest.raises(ConfigError, match="scheduled over 2 steps, so fit cannot go to 5"):
        trainer.fit(max_steps=5)


def test_modes_frozen_by_the_user_stay() -> None:
    model = small_model()
    model.stem.eval()
    before = [buffer.clone() for buffer in model.stem.buffers()]
    AlternationTrainer(model, batches()).fit(max_steps=2)
    assert all(torch.equal(a, b) for a, b in zip(model.stem.buffers(), before, strict=True))
    assert model.body.training


def test_a_model_in_eval_mode_is_trained() -> None:
    model = small_model().eval()
    AlternationTrainer(model, batches()).fit(max_steps=2)
    assert all(module.training for module in model.modules())
    assert (model.body[1].bns[0].num_batches_tracked, model.body[1].bns[2].num_batches_tracked) == (2, 2)


def test_selection_is_what_it_was() -> None:
    model = small_model()
    dabnn.set_dataset(model, "b")
    for backward in ("per_dataset", "joint", "fused"):
        AlternationTrainer(model, batches(), backward=backward).fit(max_steps=1)  # type: ignore[arg-type]
        assert dabnn.active_dataset(model) == "b"


def test_it_learns() -> None:
    torch.manual_seed(0)
    model = small_model(("a", "b"), (2, 2))
    trainer = AlternationTrainer(model, seeded_loaders(), optimizer=AdamW(model.parameters(), 0.03))
    trainer.fit(max_steps=40)
    held_out = {
        name: SeededLoader(Blobs(name, 4, side=32), 2, transform=None, shuffle=False) for name in "ab"
    }
    untrained = AlternationTrainer(small_model(("a", "b"), (2, 2)), seeded_loaders()).evaluate(held_out)
    results = trainer.evaluate(held_out)
    for name in "ab":
        assert list(results[name].iou) == ["dark", "bright"]
        assert results[name].miou > untrained[name].miou + 5


def evaluation_loaders() -> dict[str, list[Any]]:
    return {"a": [segmentation_batch(3, size=4, side=32)], "b": [segmentation_batch(5, size=4, side=32)]}


def test_evaluation_uses_the_branch_of_each_dataset_and_restores_the_modes() -> None:
    model = small_model()
    trainer = AlternationTrainer(model, batches())
    trainer.fit(max_steps=3)
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    loaders = evaluation_loaders()
    results = trainer.evaluate(loaders)
    for name, classes in (("a", 3), ("b", 5)):
        plain = dabnn.extract_dataset(model, name)
        metric = SegmentationMetric([str(i) for i in range(classes)])
        expected = evaluate_model(plain, loaders[name], metric, "cpu")
        assert torch.equal(results[name].confusion, expected.confusion)
    assert [module.training for module in model.modules()] == modes
    assert dabnn.active_dataset(model) is None


def test_evaluation_measures_the_average_if_there_is_one() -> None:
    model = small_model()
    trainer = AlternationTrainer(model, batches(), optimizer=plain_sgd(model, 0.5), ema_decay=0.99)
    trainer.fit(max_steps=5)
    assert trainer.ema is not None
    loaders = evaluation_loaders()
    results = trainer.evaluate(loaders)
    metric = SegmentationMetric([str(i) for i in range(5)])
    expected = evaluate_model(dabnn.extract_dataset(trainer.ema.module, "b"), loaders["b"], metric, "cpu")
    assert torch.equal(results["b"].confusion, expected.confusion)
    latest = evaluate_model(dabnn.extract_dataset(model, "b"), loaders["b"], metric, "cpu")
    assert not torch.equal(results["b"].confusion, latest.confusion)


def test_evaluation_needs_classes_and_known_names() -> None:
    shared = dabnn.convert_to_dataset_aware(SmallNet(), dataset_names=NAMES)
    with pytest.raises(ConfigError, match="loader of dataset 'a' does not tell its classes"):
        AlternationTrainer(shared, batches()).evaluate(evaluation_loaders())
    with pytest.raises(UnknownDatasetError, match="'x'"):
        AlternationTrainer(small_model(), batches()).evaluate({"x": []})
    with pytest.raises(DabnnError, match="empty"):
        AlternationTrainer(small_model(), batches()).evaluate({"a": []})


def test_evaluation_does_not_change_training() -> None:
    class Evaluate(Callback):
        def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
            trainer.evaluate(evaluation_loaders())

    models = []
    for callbacks in ([], [Evaluate()]):
        torch.manual_seed(0)
        model = small_model(dropout=0.3)
        AlternationTrainer(model, batches(), callbacks=callbacks).fit(max_steps=3)
        models.append(model)
    assert_equal_state(models[0].state_dict(), models[1].state_dict())


def test_dropout_differs_between_datasets_and_steps() -> None:
    """The trainer never reseeds the global generator."""
    model = small_model(dropout=0.5)
    masks: list[Tensor] = []
    model.dropout.register_forward_hook(lambda module, args, output: masks.append(output == 0))
    same = segmentation_batch(2)
    AlternationTrainer(model, {name: [same] for name in NAMES}).fit(max_steps=2)
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks) == 6


def test_nested_and_compiled_models_train() -> None:
    inner = small_model()
    model = nn.ModuleDict({"net": inner})
    model.forward = inner.forward  # type: ignore[method-assign]
    AlternationTrainer(model, batches()).fit(max_steps=1)
    compiled = torch.compile(small_model(), backend="eager")
    AlternationTrainer(compiled, batches()).fit(max_steps=1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.rand(1, 3, 32, 32), torch.full((1, 32, 32), 7)), r"'b': the target has ids \[7\]"),
        ((torch.rand(1, 3, 32, 32),), "'b': a batch is a pair"),
        ({"image": torch.rand(1, 3, 32, 32)}, "'b': a batch needs the key 'mask'"),
    ],
    ids=["label", "short", "no mask"],
)
def test_evaluation_names_the_dataset_of_a_bad_batch(batch: Any, message: str) -> None:
    trainer = AlternationTrainer(small_model(), batches())
    with pytest.raises(DataError, match=message):
        trainer.evaluate({"a": evaluation_loaders()["a"], "b": [batch]})


def test_a_callback_can_stop_a_run_that_a_later_fit_finishes(tmp_path: Path) -> None:
    class StopOnce(Callback):
        def on_step_end(self, trainer: AlternationTrainer, losses: object) -> None:
            if trainer.step == 2:
                trainer.stop()

    trainer = AlternationTrainer(
        small_model(), batches(), callbacks=[StopOnce()], run_dir=tmp_path, checkpoint_every=9
    )
    trainer.fit(max_steps=5)
    assert trainer.step == 2
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000002"
    trainer.fit(max_steps=5)
    assert trainer.step == 5


def test_fewer_steps_than_were_made_are_an_error() -> None:
    model = small_model()
    trainer = AlternationTrainer(model, batches(), optimizer=plain_sgd(model))
    trainer.fit(max_steps=3)
    with pytest.raises(ConfigError, match="2 steps in total are fewer than the 3 already made"):
        trainer.fit(max_steps=2)


def test_gradient_accumulation_of_a_launcher_does_not_scale_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for steps in ("1", "4"):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
        model = small_model()
        AlternationTrainer(model, batches(), optimizer=plain_sgd(model)).fit(max_steps=1)
        models.append(model)
    assert_equal_state(models[0].state_dict(), models[1].state_dict())
