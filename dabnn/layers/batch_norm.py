"""Dataset-aware batch norm: private statistics and affine parameters per dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from dabnn.layers.surgery import copy_without_hooks
from dabnn.layers.switch import DatasetSwitch
from dabnn.selection import DatasetSelection

Share = Literal["affine", "statistics"]


class DatasetAwareBatchNorm(DatasetSwitch):
    """N batch norms behind one switch (the paper's dataset-specific BN, Section 3.2, Eq. 1 and 2).

    Each dataset normalises with its own mean and variance and scales with its own gamma and beta. Works
    for any module that behaves like a batch norm: 1d, 2d, 3d, synchronised, or fused with an activation
    as in timm. It is deliberately not a ``_BatchNorm`` itself, since converters such as
    `torch.nn.SyncBatchNorm.convert_sync_batchnorm` would then collapse it into one.
    """

    branch_list: ClassVar[str] = "bns"
    share: Share | None = None

    @classmethod
    def from_norm(
        cls,
        norm: nn.Module,
        selection: DatasetSelection,
        memos: Sequence[dict[int, Any]] | None = None,
        share: Share | None = None,
    ) -> Self:
        """Build branches that all start as ``norm``: the first one is ``norm`` itself.

        Args:
            norm: Any batch norm. It keeps its parameters; the other branches own copies of them, with
                the same device, dtype, ``requires_grad`` and mode. Its hooks are not copied; those of
                modules inside it (an activation) are shared by all branches.
            selection: The selection of the model.
            memos: One memo of `copy.deepcopy` for each dataset but the first, which is filled here. Give
                the same ones for all norms of a model: what norms share, each branch of theirs shares.
            share: What all branches have in common: "affine" (parameters) or "statistics" (buffers).
        """
        if memos is None:
            memos = [{} for _ in range(len(selection) - 1)]
        common = {id(tensor): tensor for tensor in _common(norm, share)}
        for memo in memos:
            memo.update(common)
        switch = cls([norm, *(copy_without_hooks(norm, memo) for memo in memos)], selection)
        if share is not None:
            switch.share = share
        return switch

    def shared_tensors(self) -> list[Tensor]:
        """Return what ``share`` names, of all branches together."""
        return _common(self.branches[0], self.share)


def _common(norm: nn.Module, share: Share | None) -> list[Tensor]:
    if share is None:
        return []
    if share == "affine":
        return list(norm.parameters())
    # The count of batches says something of the shared statistics only where it sets their momentum.
    counts = getattr(norm, "momentum", 0.1) is None
    return [b for name, b in norm.named_buffers() if counts or not name.endswith("num_batches_tracked")]
