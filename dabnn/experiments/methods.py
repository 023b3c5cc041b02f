"""The training methods that are compared, each as the switches it sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from dabnn.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """How one method treats several datasets.

    Attributes:
        title: What tables call it.
        together: One network for all datasets, instead of one each.
        convert: What of the network is private to a dataset besides its classifier, as options of
            `dabnn.convert_to_dataset_aware`; left out, all batch norms.
        update: See `dabnn.AlternationTrainer`.
    """

    title: str
    together: bool = True
    convert: Mapping[str, Any] = field(default_factory=dict)
    update: Literal["alternation", "dataset"] = "alternation"


METHODS: dict[str, Method] = {
    "cdcl": Method("CDCL"),
    "single": Method("Single-dataset", together=False),
    "shared_bn": Method("Shared BN", convert={"skip": "*"}),
    "no_dat": Method("CDCL without DAT", update="dataset"),
    # The other row of Table 3; and what the paper leaves open: which half of a private norm matters, where.
    "private_conv": Method("Private convolutions, shared BN", convert={"norm_types": (nn.Conv2d,)}),
    "private_statistics": Method("Private statistics only", convert={"share_affine": True}),
    "private_affine": Method("Private affine only", convert={"share_statistics": True}),
    "encoder_norms": Method("Private BN in the encoder only", convert={"skip": "decoder.*"}),
    "decoder_norms": Method("Private BN in the decoder only", convert={"skip": "encoder.*"}),
}


def get_method(name: str) -> Method:
    """Return a method by name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; there are {list(METHODS)}")
    return METHODS[name]
