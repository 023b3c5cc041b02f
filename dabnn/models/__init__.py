"""Models of dabnn's own: those that no library has as the paper needs them."""

from __future__ import annotations

from dabnn.models.pspnet import PSPNet

__all__ = ["PSPNet"]
