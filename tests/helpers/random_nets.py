"""Random small networks for property tests: chains of convolution, norm and activation of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from toy_models import randomise

NORMS = {
    "plain": nn.BatchNorm2d,
    "cumulative": lambda c: nn.BatchNorm2d(c, momentum=None),
    "not affine": lambda c: nn.BatchNorm2d(c, affine=False),
    "no statistics": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "fused": lambda c: BatchNormAct2d(c, act_layer=nn.SiLU),
    "synchronised": nn.SyncBatchNorm,
    "group": lambda c: nn.GroupNorm(1, c),
    "none": lambda c: nn.Identity(),
}


@dataclass(frozen=True)
class Net:
    """A recipe; equal recipes build equal networks."""

    norms: tuple[str, ...]
    shared: bool
    tied: bool
    dropout: bool
    seed: int

    def build(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)]
            for norm in self.norms:
                layers += [nn.Conv2d(4, 4, 3, padding=1, groups=2), NORMS[norm](4), nn.ReLU()]
            if self.shared:
                layers.append(layers[1])
            if self.tied:
                layers.append(nn.BatchNorm2d(4))
                layers[-1].weight = layers[1].weight
            if self.dropout:
                layers.append(nn.Dropout(0.3))
            return randomise(nn.Sequential(*layers, nn.Conv2d(4, 2, 1)))

    def batch(self) -> Tensor:
        return torch.randn(3, 3, 6, 5, generator=torch.Generator().manual_seed(self.seed))


def nets() -> st.SearchStrategy[Net]:
    return st.builds(
        Net,
        norms=st.lists(st.sampled_from(sorted(NORMS)), max_size=3).map(tuple),
        shared=st.booleans(),
        tied=st.booleans(),
        dropout=st.booleans(),
        seed=st.integers(0, 1000),
    )
