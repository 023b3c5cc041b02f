"""Distillation: a student learns a teacher's predictions, where there are labels and where there are none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dabnn
from dabnn.data import ToyStreets
from dabnn.errors import ConfigError
from dabnn.experiments.build import datasets as build
from dabnn.experiments.distillation import distilled, load_teacher
from dabnn.experiments.run import run_method
from dabnn.experiments.saved import load_run
from dabnn.models.stored.folder import info_of
from dabnn.training import Callback, cross_entropy


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    model = dabnn.convert_to_dataset_aware(net, dataset_names=["a", "b"], num_classes=[5, 3], classifier="2")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def test_it_adds_the_divergence_from_the_teachers_branch_and_leaves_the_teacher_alone(teacher):
    images, masks = torch.rand(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with dabnn.use_dataset(teacher, "a"):
        loss = distilled(cross_entropy, teacher, "b")(logits, (images, masks))
        assert dabnn.active_dataset(teacher) == "a"
    p = dabnn.extract_dataset(teacher, "b")(images).softmax(1)
    divergence = (p * (p.log() - logits.softmax(1).log())).sum() / (2 * 8 * 8)
    torch.testing.assert_close(loss, F.cross_entropy(logits, masks) + divergence)
    loss.backward()
    assert logits.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_pixels_without_labels_teach_too_and_a_perfect_student_learns_nothing(teacher):
    images, void = torch.rand(1, 3, 8, 8), torch.full((1, 8, 8), 255)
    aim = dabnn.extract_dataset(teacher, "b")(images).detach()
    loss = distilled(cross_entropy, teacher, "b")
    assert loss(aim, (images, void)).abs() < 1e-6
    assert loss(torch.zeros_like(aim), (images, void)) > 0.01
    assert loss({"out": torch.zeros_like(aim)}, {"image": images, "mask": void}) > 0.01


@pytest.fixture
def student(cdcl_run, monkeypatch):
    """The demo's experiment, with its own network as the teacher of a smaller one."""
    monkeypatch.setattr(build, "ToyStreets", partial(ToyStreets, length=4))
    config = load_run(cdcl_run).config
    model = replace(config.model, architecture="FPN", encoder="tu-test_resnet", weights="none", arguments={})
    training = replace(config.training, steps=1, teacher=str(cdcl_run))
    return replace(config, name="student", model=model, training=training)


class FirstLosses(Callback):
    """Keeps the losses of the first step."""

    def __init__(self):
        self.losses = {}

    def on_step_end(self, trainer, losses):
        self.losses = self.losses or losses


def test_a_training_learns_from_a_finished_one(student, tmp_path):
    alone = replace(student, training=replace(student.training, teacher=None))
    first = [FirstLosses(), FirstLosses()]
    for config, seen, name in zip((student, alone), first, ("taught", "alone"), strict=True):
        run_method(config, "cdcl", 0, tmp_path / name, callbacks=lambda seen=seen: [seen])
    for name in student.datasets:  # the same start and batches: what differs is what the teacher adds
        assert first[0].losses[name] > first[1].losses[name] + 0.01
    assert load_run(tmp_path / "taught" / "cdcl-seed0").config.training.teacher == student.training.teacher


def test_teachers_that_do_not_fit_are_refused(cdcl_run, student):
    with pytest.raises(ConfigError, match="classes"):
        load_teacher(str(cdcl_run), {"elsewhere": 3}, student.images)
    with pytest.raises(ConfigError, match="classes"):
        load_teacher(str(cdcl_run), dict.fromkeys(student.datasets, 2), student.images)
    right = {name: len(known.classes) for name, known in info_of(load_run(cdcl_run).model).datasets.items()}
    with pytest.raises(ConfigError, match=r"images\.mean"):
        load_teacher(str(cdcl_run), right, replace(student.images, mean=(0.0, 0.0, 0.0)))
    assert not any(p.requires_grad for p in load_teacher(str(cdcl_run), right, student.images).parameters())
