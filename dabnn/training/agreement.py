"""What the processes agree on in every step: nobody has failed, and every loss is finite.

A process that cannot make a step must tell the others before they exchange the gradient: from then on they
wait for its part, which never comes. So there is one agreement for each optimizer step, between the last
forward and the exchange. It carries whether a process failed until there, and the losses.

That a run stops is agreed on apart, before a step: callbacks ask for it when they have seen the losses, and a
process that drew a batch nevertheless could not put it back. So a step has two agreements, not one. A forward
that is an exchange itself (`torch.nn.SyncBatchNorm`) needs a third, right after the batches are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dabnn.errors import NonFiniteLossError
from dabnn.training.batch import Draw
from dabnn.training.processes import processes, raise_everywhere, summed


class Agreement:
    """The agreement of one optimizer step, which every process enters once."""

    def __init__(self, names: Iterable[str], *, telling: bool = True) -> None:
        """Prepare for one optimizer step.

        Args:
            names: All datasets, in the same order in every process.
            telling: Whether others can be told of a failure: not where they may wait inside a forward.
        """
        self.names = list(names)
        self.due = telling and processes().num_processes > 1

    @contextmanager
    def covering(self) -> Iterator[None]:
        """Raise an error inside the block in all processes, if it comes before the agreement."""
        try:
            yield
        except Exception as error:
            if self.due:
                self.due = False
                message = self._message()
                message[0] = 1
                summed(message)
                raise_everywhere(error)
            raise

    def on_losses(self, draws: Sequence[Draw], losses: Sequence[Tensor]) -> dict[str, float]:
        """Return the mean loss of each dataset over its batches in all processes.

        Args:
            draws: The batches of this process.
            losses: The loss of each, a tensor with one element.

        Raises:
            NonFiniteLossError: In all processes, if a mean is not finite.
            ProcessError: If another process has failed.
        """
        self.due = False
        if processes().num_processes == 1:
            values = torch.stack([loss.detach().reshape(()) for loss in losses]).tolist()
            means = _means([draw.dataset for draw in draws], values)
        else:
            failed, *sums = summed(self._message(draws, losses)).tolist()
            if failed:
                raise_everywhere(None)
            pairs = zip(self.names, sums[::2], sums[1::2], strict=True)
            means = {name: total / count for name, total, count in pairs if count}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise NonFiniteLossError(f"the loss of dataset {name!r} is {mean}")
        return means

    def _message(self, draws: Sequence[Draw] = (), losses: Sequence[Tensor] = ()) -> Tensor:
        """Return whether this process failed, then the sum of the losses and their number by dataset."""
        message = torch.zeros(1 + 2 * len(self.names), dtype=torch.float64, device=processes().device)
        for draw, loss in zip(draws, losses, strict=True):
            place = 1 + 2 * self.names.index(draw.dataset)
            message[place] += loss.detach().reshape(())
            message[place + 1] += 1
        return message


def forwards_exchange(model: nn.Module) -> bool:
    """Tell whether processes wait for each other inside a forward of the model."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def _means(datasets: Sequence[str], losses: Sequence[float]) -> dict[str, float]:
    by_dataset: dict[str, list[float]] = {}
    for dataset, loss in zip(datasets, losses, strict=True):
        by_dataset.setdefault(dataset, []).append(loss)
    return {dataset: math.fsum(values) / len(values) for dataset, values in by_dataset.items()}
