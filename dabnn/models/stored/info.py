"""What is known of a pretrained model besides its weights: the content of its ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from dabnn._version import __version__
from dabnn.errors import CheckpointError
from dabnn.models.stored.source import Source
from dabnn.schema import STRICT, Count, Finite, Name, Positive, Share
from dabnn.storage.formats import check_format

SCHEMA = 1
HEAD = ("schema", "library", "version")
DEEPEST = 16
"""Most levels of lists and mappings in a config; deeper ones would exhaust whoever walks through them."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPER = "Cross-Dataset Collaborative Learning (Wang et al., AAAI 2022, arXiv:2103.11351)"

Byte = Annotated[int, Field(ge=0, le=255)]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


@dataclass(frozen=True, config=STRICT)
class DatasetInfo:
    """One dataset of a model.

    Attributes:
        classes: Class names, in the order of the logits.
        palette: One RGB colour in [0, 255] per class, or none at all.
        metrics: Measured values by name, such as ``{"miou": 54.8}``, in percent.
        split: What they were measured on.
        size: Height and width of the images that the model was trained and measured on, if they have one.
        licence: Terms of the data.
    """

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    palette: tuple[tuple[Byte, Byte, Byte], ...] = ()
    metrics: dict[str, Finite] = field(default_factory=dict)
    split: str = ""
    size: tuple[Count, Count] | None = None
    licence: str = ""

    @model_validator(mode="after")
    def _palette_fits(self) -> DatasetInfo:
        if self.palette and len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} colours for {len(self.classes)} classes")
        return self

    @classmethod
    def numbered(cls, num_classes: int) -> DatasetInfo:
        """Return a dataset whose classes are known by their number alone."""
        return cls(tuple(f"class {k}" for k in range(num_classes)))


@dataclass(frozen=True, config=STRICT)
class Build:
    """How a dataset-aware model is built.

    Attributes:
        source: The plain model.
        norms: Paths of the norms that have branches.
        classifiers: Paths of the classifiers that have branches.
        share: What the branches of a norm have in common, see `dabnn.convert_to_dataset_aware`.
        momentum: Momentum of all batch norms, if they have one in common.
    """

    source: Source
    norms: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    share: Literal["affine", "statistics"] | None = None
    momentum: Share | None = None


@dataclass(frozen=True, config=STRICT)
class ModelInfo:
    """A dataset-aware model and what it was trained with.

    Attributes:
        datasets: Its datasets by name, in branch order. Names become names of files.
        mean: Mean of each RGB channel of the input images in [0, 1].
        std: Standard deviation of each channel.
        name: Name of the model, such as "pspnet_resnet18_os8.cdcl".
        recipe: How it was trained.
        paper: What it implements.
        licence: Terms of the weights.
        notes: What else to say of it, as Markdown.
        build: How to build it; told from the model when it is saved.
        sha256: Checksum of the weights that it was written with, if it was; not compared.
    """

    datasets: Annotated[dict[Name, DatasetInfo], Field(min_length=1)]
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD
    name: str = ""
    recipe: str = ""
    paper: str = ""
    licence: str = ""
    notes: str = ""
    build: Build | None = None
    sha256: Sha256 = field(default="", compare=False)


def to_json(info: ModelInfo) -> str:
    """Return the text of ``config.json``."""
    head = {"schema": SCHEMA, "library": "dabnn", "version": __version__}
    content = head | asdict(info)
    return json.dumps(content, indent=1) + "\n"


def from_json(text: str, where: str) -> ModelInfo:
    """Return what the text of a ``config.json`` says.

    Args:
        text: The text.
        where: What errors call the file.

    Raises:
        CheckpointError: If it is no config of dabnn, of a newer schema, or damaged.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is no JSON ({error}); get the file again") from error
    if _is_deeper(content, DEEPEST):
        raise CheckpointError(f"{where} is damaged: it is nested more than {DEEPEST} levels deep")
    if not isinstance(content, Mapping) or content.get("library") != "dabnn":
        raise CheckpointError(f"{where} is not of a model of dabnn")
    schema = content.get("schema")
    if type(schema) is not int:
        raise CheckpointError(f"{where} is damaged: schema: {schema!r} is no number")
    check_format(where, schema, SCHEMA, content.get("version"))
    fields = {key: value for key, value in content.items() if key not in HEAD}
    try:
        return TypeAdapter(ModelInfo).validate_python(fields)
    except ValidationError as error:
        raise CheckpointError(f"{where} is damaged: {explain(error)}") from None


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether lists and mappings lie more than so many levels inside each other."""
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)


def explain(error: ValidationError) -> str:
    """Return what is wrong, and where, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
