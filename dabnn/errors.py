"""Every exception and warning of dabnn: each message says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Collection


class DabnnError(Exception):
    """Base of all errors raised on purpose by dabnn."""


class DabnnWarning(UserWarning):
    """Base of all warnings issued by dabnn."""


class ConversionError(DabnnError, TypeError):
    """A model, or one module of it, cannot be converted; the model was not changed."""


class NoBatchNormFoundError(ConversionError, ValueError):
    """There is nothing to convert: the model holds no batch normalisation."""


class ClassifierNotFoundError(ConversionError, ValueError):
    """The classifier of a model could not be found or rebuilt for another number of classes."""


class UnknownDatasetError(DabnnError, LookupError):
    """A dataset name or index that the model does not have."""


class NoActiveDatasetError(DabnnError, RuntimeError):
    """A forward pass was made before a dataset was selected."""


class NotDatasetAwareError(DabnnError, TypeError):
    """A function that needs a converted model was given another."""


class CheckpointError(DabnnError, ValueError):
    """A checkpoint does not fit: wrong number of datasets, wrong names or wrong shapes."""


class UnknownModelError(DabnnError, LookupError):
    """A name that no model of the zoo has."""


class HubError(DabnnError, OSError):
    """The Hugging Face Hub cannot give or take a model."""


class ConfigError(DabnnError, ValueError):
    """A configuration file or argument is wrong."""


class DataError(DabnnError, ValueError):
    """A file, a label or a batch of a dataset is wrong."""


class NonFiniteLossError(DabnnError, FloatingPointError):
    """A loss became NaN or infinite; no optimizer step was made with it."""


class ProcessError(DabnnError, RuntimeError):
    """Another process of a training failed, so this one cannot go on."""


class FusedForwardError(DabnnError, RuntimeError):
    """A fused forward would not equal separate forwards, or its batches cannot be concatenated."""


def listed(items: Collection[str], most: int = 8, separator: str = ", ") -> str:
    """Return items as the text of a message, in their order: the first few, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{separator.join(list(items)[:most])}{more}"
