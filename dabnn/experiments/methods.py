"""The training methods that are compared, each as the switches it sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dabnn.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """How one method treats several datasets.

    Attributes:
        title: What tables call it.
        together: One network for all datasets, instead of one each.
        shared_norms: All datasets share the batch norms; only classifiers are private.
        update: See `dabnn.AlternationTrainer`.
    """

    title: str
    together: bool = True
    shared_norms: bool = False
    update: Literal["alternation", "dataset"] = "alternation"


METHODS: dict[str, Method] = {
    "cdcl": Method("CDCL"),
    "single": Method("Single-dataset", together=False),
    "shared_bn": Method("Shared BN", shared_norms=True),
    "no_dat": Method("CDCL without DAT", update="dataset"),
}


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; there are {list(METHODS)}")
    return METHODS[name]
