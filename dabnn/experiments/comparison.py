"""Compare CDCL with other methods: one table, and what it says in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, stdev

from dabnn.experiments.methods import METHODS
from dabnn.experiments.results import Row

OURS = "cdcl"
EVEN = 0.05
"""Differences below this many points are shown as 0.0."""


@dataclass(frozen=True)
class Comparison:
    """Results of several methods on the same datasets with the same seeds.

    Attributes:
        rows: One result per method, dataset and seed; CDCL among the methods.
        ours: The method that the others are compared with.
        titles: What tables call the methods.
        apart: Datasets that do not count for the mean.
    """

    rows: tuple[Row, ...]
    ours: str = OURS
    titles: Mapping[str, str] = field(
        default_factory=lambda: {name: method.title for name, method in METHODS.items()}
    )
    apart: frozenset[str] = frozenset()

    @property
    def methods(self) -> list[str]:
        """The methods in the order of their first rows."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def datasets(self) -> list[str]:
        """The datasets in the order of their first rows."""
        return list(dict.fromkeys(row.dataset for row in self.rows))

    @property
    def averaged(self) -> list[str]:
        """The datasets that count for the mean."""
        return [name for name in self.datasets if name not in self.apart]

    @property
    def seeds(self) -> list[int]:
        """The seeds, sorted."""
        return sorted({row.seed for row in self.rows})

    def miou(self, method: str, dataset: str | None = None) -> list[float]:
        """Return mIoU in percent, one per seed, on one dataset or on the mean over those that count."""
        counted = [dataset] if dataset is not None else self.averaged
        chosen = [row for row in self.rows if row.method == method and row.dataset in counted]
        return [fmean(row.miou for row in chosen if row.seed == seed) for seed in self.seeds]

    def gain(self, other: str, dataset: str | None = None) -> list[float]:
        """Return CDCL minus another method in points of mIoU, one per seed (paired)."""
        pairs = zip(self.miou(self.ours, dataset), self.miou(other, dataset), strict=True)
        return [ours - theirs for ours, theirs in pairs]

    def table(self) -> tuple[list[str], list[list[str]], list[list[str]]]:
        """Return the header, a line per method and a line of paired differences per other method."""
        methods = [
            [self.titles[method], *self._numbers(partial(self.miou, method))] for method in self.methods
        ]
        gains = [
            [
                f"{self.titles[self.ours]} minus {self.titles[other]}",
                *self._numbers(partial(self.gain, other), "+"),
            ]
            for other in self.others
        ]
        mean = ["mean"] if len(self.averaged) > 1 else []
        return ["mIoU %", *self.datasets, *mean], methods, gains

    @property
    def others(self) -> list[str]:
        """The methods that ours is compared with."""
        return [method for method in self.methods if method != self.ours]

    def findings(self) -> list[str]:
        """Return what the table says, one sentence or two per other method, and how far to trust it."""
        return [*(self._finding(other) for other in self.others), self._trust()]

    def _numbers(self, values: Callable[[str | None], list[float]], sign: str = "") -> list[str]:
        mean = [None] if len(self.averaged) > 1 else []
        return [_number(values(name), sign) for name in (*self.datasets, *mean)]

    def _finding(self, other: str) -> str:
        ours, theirs, gain = (fmean(v) for v in (self.miou(self.ours), self.miou(other), self.gain(other)))
        title = self.titles[other]
        text = (
            f"CDCL against {title}: {ours:.1f} against {theirs:.1f} % mIoU on the mean over the datasets. "
            f"CDCL is {_verdict(gain)}"
        )
        parts = [f"{_verdict(fmean(self.gain(other, name)))} on {name}" for name in self.datasets]
        return f"{text}: {', '.join(parts)}."

    def _trust(self) -> str:
        if len(self.seeds) == 1:
            return "This is one seed: a difference of a point can be chance. Several seeds say more."
        counts = [
            f"{self.titles[other]} in {sum(gain > 0 for gain in self.gain(other))} of {len(self.seeds)}"
            for other in self.others
        ]
        return f"By seed, CDCL is above {' and above '.join(counts)} (on the mean over the datasets)."


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    alignment = [":---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, alignment, *rows))


def _verdict(points: float) -> str:
    if abs(points) < EVEN:
        return "even"
    return f"{abs(points):.1f} points {'better' if points > 0 else 'worse'}"


def _number(values: Sequence[float], sign: str = "") -> str:
    """Mean of the seeds, with their standard deviation if there are several."""
    text = f"{fmean(values):{sign}.1f}"
    return text if len(values) == 1 else f"{text} ±\N{NO-BREAK SPACE}{stdev(values):.1f}"
