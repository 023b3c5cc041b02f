"""The switch: N branches of one layer, of which a forward runs the active dataset's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from dabnn.errors import CheckpointError, FusedForwardError
from dabnn.selection import DatasetSelection


class DatasetSwitch(nn.Module):
    """N modules behind one switch; the base of `DatasetAwareBatchNorm` and `DatasetAwareHead`.

    The switch adds no arithmetic: it calls the branch of the active dataset. It never consults its own
    ``training`` flag, so idioms that freeze the inner modules work. Constants on which the branches
    agree (``num_features``, ``eps`` ...) can be read from the switch; tensors cannot, since there is one
    per dataset.

    State-dict keys are ``<site>.<branch_list>.<i>.<param>``. A state dict of the plain layer
    (``<site>.<param>``) loads into every branch, each getting its own copy.

    Attributes:
        selection: The selection shared by all switches of a model.
    """

    branch_list: ClassVar[str] = "branches"

    def __init__(self, branches: Sequence[nn.Module], selection: DatasetSelection) -> None:
        """Hold the branches as they are, without copying them.

        Args:
            branches: One module per dataset, in the order of ``selection.names``.
            selection: The selection of the model.

        Raises:
            ValueError: If the numbers of branches and datasets differ.
        """
        super().__init__()
        if len(branches) != len(selection):
            raise ValueError(
                f"{len(branches)} branches for {len(selection)} datasets {list(selection.names)}: "
                "give one branch per dataset"
            )
        self.selection = selection
        self._modules[self.branch_list] = nn.ModuleList(branches)
        self.training = self.branches.training = branches[0].training

    @property
    def branches(self) -> nn.ModuleList:
        """The branches, in dataset order."""
        return self._modules[self.branch_list]  # type: ignore[return-value]

    def shared_tensors(self) -> list[Tensor]:
        """Return the parameters and buffers that all branches have in common; none, as a rule."""
        return []

    def private(self, branch: nn.Module) -> list[Tensor]:
        """Return the parameters and buffers of one of the branches that no other branch has."""
        shared = {id(tensor) for tensor in self.shared_tensors()}
        return [t for t in (*branch.parameters(), *branch.buffers()) if id(t) not in shared]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run hooks and forward; in torch.fx graphs a leaf, so that these follow the selection too."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Proxy):
                tracer: Any = value.tracer
                leaf = partial(self._call_in_graph, tracer)
                return tracer.call_module(self, leaf, args, kwargs)
        return super().__call__(*args, **kwargs)

    def _call_in_graph(self, tracer: Any, *args: Any, **kwargs: Any) -> Proxy:
        call: Proxy = tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)
        return call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the active dataset's branch on whatever the plain layer takes.

        Raises:
            NoActiveDatasetError: If no dataset is active.
        """
        if torch.compiler.is_dynamo_compiling():
            self.selection._warn_about_recompilation()
        if self.selection.segments is not None:
            return self._forward_segments(*args, **kwargs)
        return self.branches[self.selection.require_active()](*args, **kwargs)

    def _forward_segments(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Run each dataset's branch on its part of a concatenated batch (the fused forward)."""
        segments = self.selection.segments or ()
        total = sum(size for _, size in segments)
        if x.shape[0] != total:
            raise FusedForwardError(
                f"a {type(self.branches[0]).__name__} received a batch of {x.shape[0]} where the fused batch "
                f"holds {total} samples, so it cannot be divided by dataset; use backward='per_dataset'"
            )
        parts = torch.split(x, [size for _, size in segments])
        outputs = [self.branches[i](part, **kwargs) for (i, _), part in zip(segments, parts, strict=True)]
        return self._join(outputs)

    def _join(self, outputs: list[Tensor]) -> Tensor:
        """Concatenate the outputs of the branches along the batch dimension."""
        return torch.cat(outputs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or self.branch_list not in self.__dict__.get("_modules", {}):
                raise
        return self._constant(name)

    def _constant(self, name: str) -> Any:
        """Return the attribute that all branches, or at least the active one, agree on."""
        values = [getattr(branch, name) for branch in self.branches if hasattr(branch, name)]
        if not values:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        if any(isinstance(value, Tensor | nn.Module) or callable(value) for value in values):
            raise AttributeError(
                f"'{name}' exists once per dataset here: read it from .{self.branch_list}[i], or take the "
                "plain model of one dataset with dabnn.extract_dataset(model, dataset) first"
            )
        if all(value == values[0] for value in values):
            return values[0]
        if self.selection.active is None:
            raise AttributeError(f"'{name}' differs between datasets ({values}) and none is active")
        return getattr(self.branches[self.selection.active], name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in self.__dict__ or name.startswith("_") or hasattr(type(self), name)
        # torch.export of torch 2.9 sets `__dict__` of a bare instance, which has no modules yet.
        branches = self.branches if self.branch_list in self.__dict__.get("_modules", {}) else ()
        if not own and any(hasattr(branch, name) for branch in branches):
            raise AttributeError(
                f"'{name}' exists once per dataset here: set it on each of .{self.branch_list} "
                "(setting it on the switch would have no effect)"
            )
        super().__setattr__(name, value)

    def expand_plain_keys(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Replace the plain layer's entries of ``state_dict`` by one copy per branch, in place.

        Args:
            state_dict: Keys and tensors; entries that already belong to branches are left alone.
            prefix: Path of this switch in the state dict, with a trailing dot.

        Raises:
            CheckpointError: If the state dict holds another number of branches.
        """
        own = f"{prefix}{self.branch_list}."
        branched = {key.removeprefix(own).split(".")[0] for key in state_dict if key.startswith(own)}
        if branched and len(branched) != len(self.selection):
            raise CheckpointError(
                f"{prefix.rstrip('.') or 'the module'}: the checkpoint holds {len(branched)} datasets, the "
                f"model {len(self.selection)} {list(self.selection.names)}; convert the model for the same "
                "datasets"
            )
        if branched:
            return
        for key in [key for key in state_dict if key.startswith(prefix)]:
            value = state_dict.pop(key)
            for i in range(len(self.selection)):
                state_dict[f"{own}{i}.{key.removeprefix(prefix)}"] = (
                    value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self.expand_plain_keys(state_dict, prefix)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Name the datasets."""
        return ", ".join(self.selection.names)


def named_switches(model: nn.Module, *, remove_duplicate: bool = True) -> Iterator[tuple[str, DatasetSwitch]]:
    """Yield every switch of a model with its path; one used in several places once, or at each of them."""
    for path, module in model.named_modules(remove_duplicate=remove_duplicate):
        if isinstance(module, DatasetSwitch):
            yield path, module
