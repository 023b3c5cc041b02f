"""The training methods that are compared, each as the switches it sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from dabnn.errors import ConfigError
from dabnn.experiments.config import Config, ModelConfig, TrainingConfig
from dabnn.training.options import UpdateMode

PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "smp": {"encoder": ("encoder.*",), "decoder": ("decoder.*",)},
    "dabnn": {"encoder": ("backbone.*",), "decoder": ("pyramid.*", "bottleneck.*")},
}
"""Where the norms of a part of a model are, by library."""


@dataclass(frozen=True)
class Network:
    """One network that a method trains.

    Attributes:
        datasets: The datasets that it has a branch for and is measured on.
        train: Those of them that it is trained on.
        start: The dataset whose single-dataset network it starts from, or None.
        joined: Other datasets whose images are mixed, with remapped labels, into the one it is trained on.
    """

    datasets: tuple[str, ...]
    train: tuple[str, ...]
    start: str | None = None
    joined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """How one method treats several datasets.

    Attributes:
        name: What it is called on the command line, in folders and in results.
        title: What tables call it.
        together: One network for all datasets, instead of one each.
        transfer: Start from the single-dataset network of the other dataset, of two.
        reset: Of a transfer: the norms of the new dataset start anew, not as those of the other.
        freeze: Train private parts only.
        remap: Train on the images of all datasets, the labels of the others remapped to those of its own.
        convert: What of the network is private to a dataset besides its classifier, as options of
            `dabnn.convert_to_dataset_aware`; left out, all batch norms.
        share: The part of the network whose norms stay shared.
        mixed: Norms that are shared see the batches of all datasets together, in one forward.
        update: See `dabnn.AlternationTrainer`.
        multiply: What is multiplied by the number of datasets of the experiment, to give a network of one
            dataset as many "steps" as the shared weights see batches, or a learning rate ("lr") as large as
            their sum of losses makes it.
        weights: Loss weights of the datasets besides the experiment's own: 1 each ("sum"), 1 / N ("mean"),
            or by their number of training images, with the sum N ("size").
        double_largest: Give the largest dataset two batches per step.
    """

    name: str
    title: str
    together: bool = True
    transfer: bool = False
    reset: bool = False
    freeze: bool = False
    remap: bool = False
    convert: Mapping[str, Any] = field(default_factory=dict)
    share: Literal["encoder", "decoder"] | None = None
    mixed: bool = False
    update: UpdateMode = "alternation"
    multiply: Literal["steps", "lr"] | None = None
    weights: Literal["sum", "mean", "size"] = "sum"
    double_largest: bool = False

    def networks(self, datasets: Iterable[str]) -> list[Network]:
        """Return the networks to train for these datasets.

        Raises:
            ConfigError: If the method is for two datasets and there are more or fewer.
        """
        names = tuple(datasets)
        if self.remap:
            others = {name: tuple(other for other in names if other != name) for name in names}
            return [Network((name,), (name,), joined=others[name]) for name in names]
        if not self.transfer:
            return [Network(names, names)] if self.together else [Network((name,), (name,)) for name in names]
        if len(names) != 2:
            raise ConfigError(f"{self.title!r} goes from one dataset to another, there are {list(names)}")
        if self.together:
            return [Network(names, names[1:], start=names[0])]
        return [Network((to,), (to,), start=other) for to, other in zip(names, reversed(names), strict=True)]

    def conversion(self, model: ModelConfig) -> Mapping[str, Any]:
        """Return what of a model is private, as options of `dabnn.convert_to_dataset_aware`."""
        return self.convert if self.share is None else {"skip": PARTS[model.library][self.share]}

    def training(self, config: Config) -> TrainingConfig:
        """Return how the method trains its networks in an experiment."""
        training = replace(config.training, backward="mixed") if self.mixed else config.training
        if self.multiply is None:
            return training
        value = getattr(training, self.multiply) * len(config.datasets)
        return replace(training, **{self.multiply: value})

    def dataset_weights(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Return a loss weight by dataset.

        Args:
            sizes: Number of training images by dataset.
        """
        count, total = len(sizes), sum(sizes.values())
        weights = {"sum": 1.0, "mean": 1.0 / count}
        return {name: weights.get(self.weights, count * size / total) for name, size in sizes.items()}

    def dataset_ratios(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the number of batches per step by dataset.

        Args:
            sizes: Number of training images by dataset.
        """
        largest = max(sizes, key=sizes.__getitem__) if self.double_largest else None
        return {name: 2 if name == largest else 1 for name in sizes}


SHARED_BN: Mapping[str, Any] = {"skip": "*"}
PRIVATE_CONV: Mapping[str, Any] = {"norm_types": (nn.Conv2d,)}

_METHODS = (
    Method("cdcl", "CDCL"),
    Method("single", "Single-dataset", together=False),
    Method("finetune", "Finetuning", together=False, transfer=True),
    Method("remap", "Label remapping", together=False, remap=True),
    # Table 6: train on the first dataset, then on the second with new norms.
    Method("two_stage", "Two stages, convolutions updated", transfer=True, reset=True),
    Method("two_stage_frozen", "Two stages, convolutions frozen", transfer=True, reset=True, freeze=True),
    Method("two_stage_copied", "Two stages, convolutions frozen, norms copied", transfer=True, freeze=True),
    # Table 3, with and without DAT. The paper does not say what its shared norms see: the batch of one
    # dataset or, as in joint, of all together.
    Method("private_conv", "Private convolutions, shared BN", convert=PRIVATE_CONV),
    Method(
        "private_conv_no_dat",
        "Private convolutions, shared BN, without DAT",
        convert=PRIVATE_CONV,
        update="dataset",
    ),
    Method("shared_bn", "Shared BN", convert=SHARED_BN),
    Method("shared_bn_no_dat", "Shared BN, without DAT", convert=SHARED_BN, update="dataset"),
    Method("joint", "Shared BN, mixed batches", convert=SHARED_BN, mixed=True),
    Method("no_dat", "CDCL without DAT", update="dataset"),
    # What the paper leaves open: which half of a private norm matters, and where.
    Method("private_statistics", "Private statistics only", convert={"share_affine": True}),
    Method("private_affine", "Private affine only", convert={"share_statistics": True}),
    Method("encoder_norms", "Private BN in the encoder only", share="decoder"),
    Method("decoder_norms", "Private BN in the decoder only", share="encoder"),
    Method("shuffled", "CDCL without DAT, random order", update="shuffled"),
    Method("double_largest", "CDCL, two batches of the largest dataset", double_largest=True),
    Method("weighted_by_size", "CDCL, losses weighted by dataset size", weights="size"),
    # Controls: CDCL's shared weights see N times the batches, and the sum of N losses.
    Method("single_steps", "Single-dataset, N times the steps", together=False, multiply="steps"),
    Method("single_lr", "Single-dataset, N times the learning rate", together=False, multiply="lr"),
    Method("mean_loss", "CDCL, mean of the losses", weights="mean"),
)
METHODS: dict[str, Method] = {method.name: method for method in _METHODS}


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; there are {list(METHODS)}")
    return METHODS[name]
