"""What a conversion finds in a model: the sites, and the modules it skips and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One module that a conversion looked at.

    Attributes:
        path: Its path in the model; empty for the root.
        module: Name of its class.
        aliases: Further paths under which the same instance is used.
        reason: Why it is skipped; empty for sites that are converted.
    """

    path: str
    module: str
    aliases: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class ConversionReport:
    """The outcome of `dabnn.plan_conversion`; printing it gives a readable summary.

    Attributes:
        dataset_names: Names of the datasets, in branch order.
        norms: Batch norms that get one branch per dataset.
        classifiers: Classifiers that get one branch per dataset.
        skipped: Norms that stay shared, with the reason.
        num_classes: Classes per dataset, or None when the classifier stays shared.
    """

    dataset_names: tuple[str, ...]
    norms: tuple[Site, ...]
    classifiers: tuple[Site, ...]
    skipped: tuple[Site, ...]
    num_classes: tuple[int, ...] | None

    def __str__(self) -> str:
        kinds = Counter(site.module for site in self.norms)
        datasets = f"{len(self.dataset_names)} datasets ({', '.join(self.dataset_names)})"
        lines = [
            f"{len(self.norms)} batch norms for {datasets}: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        ]
        lines += [
            f"classifier {site.path}: classes {list(self.num_classes or ())}" for site in self.classifiers
        ]
        lines += [f"skipped {site.path} ({site.module}): {site.reason}" for site in self.skipped]
        return "\n".join(lines)
