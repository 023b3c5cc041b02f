"""The datasets that dabnn reads, in their official layouts."""

from dabnn.data.readers.registry import READERS, open_dataset, splits_of

__all__ = ["READERS", "open_dataset", "splits_of"]
