"""The YAML configuration of an experiment, as typed dataclasses."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from dabnn.data import READERS
from dabnn.errors import ConfigError
from dabnn.schema import STRICT, Count, Name, Positive, Share
from dabnn.training.options import BackwardMode, Precision

Natural = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _known_kind(kind: str) -> str:
    if kind != "toy" and kind not in READERS:
        raise ValueError(f"unknown kind {kind!r}; there are toy, {', '.join(READERS)}")
    return kind


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """A model of segmentation-models-pytorch, or of `dabnn.models`.

    Attributes:
        library: "smp" or "dabnn".
        architecture: Name of a class of the library, such as "PSPNet".
        encoder: Name of its encoder or backbone.
        arguments: Further keyword arguments of the class.
        weights: "imagenet" loads the encoder weights of `dabnn.experiments.build.weights`.
        bn_momentum: Momentum of every batch norm, or None to keep the model's.
    """

    library: Literal["smp", "dabnn"] = "smp"
    architecture: str = "PSPNet"
    encoder: str = "resnet18"
    arguments: dict[str, Any] = field(default_factory=dict)
    weights: Literal["none", "imagenet"] = "none"
    bn_momentum: Share | None = None


@dataclass(frozen=True, config=STRICT)
class DatasetConfig:
    """Where one dataset comes from.

    Attributes:
        kind: "toy" for `dabnn.data.ToyStreets`, else a reader of `dabnn.data.readers.registry`.
        root: Folder below the data directory, or the name of the toy dataset.
        space: Label space of the files, if it is not the reader's own: of a folder dataset that dabnn has
            maps for (`dabnn.data.list_maps`).
        relabel: Label space to train and evaluate in, instead of that of the files.
        maps: Label maps from the classes of other datasets to those of this one, for label remapping: files
            below the data directory (`dabnn.data.read_map`) by the name of the other dataset. Left out, those
            that dabnn has.
        train: Training split.
        evaluate: Evaluation split.
        weight: Loss weight w_i (Eq. 3).
        ratio: Batches per step.
    """

    root: str
    kind: Annotated[str, AfterValidator(_known_kind)] = "folder"
    space: Name | None = None
    relabel: Name | None = None
    maps: dict[Name, str] = field(default_factory=dict)
    train: str = "train"
    evaluate: str = "val"
    weight: NotNegative = 1.0
    ratio: Count = 1


@dataclass(frozen=True, config=STRICT)
class HeldOutConfig(DatasetConfig):
    """A split that networks are measured on, besides those of the datasets that they are trained on.

    Attributes:
        branch: The dataset whose branch segments it; left out where a table says it.
    """

    branch: Name | None = None


@dataclass(frozen=True, config=STRICT)
class ImageConfig:
    """Input normalisation and the paper's augmentation (Section 4.1).

    Attributes:
        mean: Channel means of images in [0, 1].
        std: Channel standard deviations of images in [0, 1].
        crop: Height and width of training crops.
        scale: Range of the random scale.
        flip: Probability of a horizontal flip.
        jitter: Most that brightness, contrast and saturation change; not in the paper.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    crop: tuple[Count, Count] = (512, 512)
    scale: tuple[Positive, Positive] = (0.5, 2.1)
    flip: Share = 0.5
    jitter: Share = 0.0

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> ImageConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be (low, high), got {self.scale}")
        return self


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """Optimisation; the defaults are the paper's (Section 4.1).

    Attributes:
        steps: DAT steps; every dataset gives ``ratio`` batches per step.
        batch_size: Images per dataset and step.
        optimizer: "sgd" or "adamw".
        lr: Initial learning rate.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        loss: "cross_entropy", as in the paper, or its sum with one of segmentation-models-pytorch's losses.
        teacher: A model whose predictions are learned too: the folder of a finished training, or what
            `dabnn.from_pretrained` takes. See `dabnn.experiments.distillation`.
        schedule: "poly" (power 0.9), "cosine" or "constant".
        warmup: Steps of linear warm-up.
        backward: How gradients are computed, see `dabnn.training.step`.
        precision: Mixed precision.
        clip_norm: Largest gradient norm, or None.
        channels_last: Use the channels-last memory format.
        ema_decay: Decay of the weight average, or None.
        recalibrate: After training, give each dataset's norms the statistics of whole training images.
        activation_checkpointing: Trade time for memory.
        workers: Loader processes per dataset.
        checkpoint_every: Steps between checkpoints, or None for the last one only.
    """

    steps: Count = 40_000
    batch_size: Count = 8
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    loss: Literal["cross_entropy", "dice", "lovasz", "focal"] = "cross_entropy"
    teacher: str | None = None
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    warmup: Natural = 0
    backward: BackwardMode = "per_dataset"
    precision: Precision = "no"
    clip_norm: Positive | None = None
    channels_last: bool = False
    ema_decay: Share | None = None
    recalibrate: bool = False
    activation_checkpointing: bool = False
    workers: Natural = 0
    checkpoint_every: Count | None = 200

    @model_validator(mode="after")
    def _warmup_ends(self) -> TrainingConfig:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be less than steps={self.steps}")
        return self


@dataclass(frozen=True, config=STRICT)
class Config:
    """One experiment.

    Attributes:
        name: Names the folder of its runs.
        datasets: The datasets by name, in branch order.
        data_dir: Folder of all datasets, relative to the config file; ``$DABNN_DATA`` and ``--data`` win.
        held_out: Splits to measure on besides, in tables of the paper.
        model: The network.
        images: Normalisation and augmentation.
        training: Optimisation.
    """

    name: Name
    datasets: Annotated[dict[Name, DatasetConfig], Field(min_length=1)]
    data_dir: str = "."
    held_out: dict[Name, HeldOutConfig] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    images: ImageConfig = field(default_factory=ImageConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @model_validator(mode="after")
    def _held_out_is_apart(self) -> Config:
        twice = sorted(self.held_out.keys() & self.datasets.keys())
        if twice:
            raise ValueError(f"held_out and datasets both have {twice}")
        branches = {name: entry.branch for name, entry in self.held_out.items() if entry.branch is not None}
        unknown = {name: branch for name, branch in branches.items() if branch not in self.datasets}
        if unknown:
            raise ValueError(f"held_out has the branches {unknown}, there are {list(self.datasets)}")
        return self


def load_config(path: str | Path) -> Config:
    """Read a config file; ``data_dir`` becomes absolute.

    The file named by its key ``base``, relative to it, is read first; of a mapping that both have, the keys
    are united, and those of the file itself win.

    Raises:
        ConfigError: If a file is missing, not YAML, or has unknown keys or wrong values.
    """
    path = Path(path)
    config = parse_config(_read(path), str(path))
    return replace(config, data_dir=str((path.parent / config.data_dir).resolve()))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read config {path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"config {path} must be a mapping of keys to values")
    base = data.pop("base", None)
    return data if base is None else _united(_read(path.parent / base), data)


def _united(base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    both = [key for key, value in data.items() if isinstance(value, dict) and isinstance(base.get(key), dict)]
    return base | data | {key: _united(base[key], data[key]) for key in both}


def parse_config(data: dict[str, Any], source: str = "config") -> Config:
    """Build a config from plain values.

    Args:
        data: Nested mapping, as read from YAML.
        source: What error messages call it.

    Raises:
        ConfigError: If a key is unknown (the nearest known one is named) or a value is wrong.
    """
    try:
        return TypeAdapter(Config).validate_python(data)
    except ValidationError as error:
        problems = [_explain(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from None


def with_steps(config: Config, steps: int) -> Config:
    """Return the same experiment with another number of steps, under a name of its own.

    Raises:
        ConfigError: If ``steps`` is not positive.
    """
    if steps < 1:
        raise ConfigError(f"the number of steps must be positive, got {steps}")
    return replace(config, name=f"{config.name}_{steps}", training=replace(config.training, steps=steps))


def to_dict(config: Config) -> dict[str, Any]:
    """Return the config as plain values that YAML and JSON can hold."""
    data: dict[str, Any] = TypeAdapter(Config).dump_python(config, mode="json")
    return data


def _explain(location: tuple[int | str, ...], kind: str, message: str) -> str:
    where = ".".join(str(part) for part in location)
    if kind not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: {message}"
    near = difflib.get_close_matches(str(location[-1]), list(_known_keys(location[:-1])), n=1, cutoff=0)
    return f"unknown key {where}, did you mean {near[0]!r}?" if near else f"unknown key {where}"


def _known_keys(location: tuple[int | str, ...]) -> Iterator[str]:
    """Yield the field names of the dataclass at a location such as ("datasets", "camvid")."""
    hint: Any = Config
    for key in location:
        hint = get_args(hint)[1] if get_origin(hint) is dict else get_type_hints(hint).get(str(key))
    if is_dataclass(hint):
        yield from (item.name for item in fields(hint))
