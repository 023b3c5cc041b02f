"""Toy street scenes: three procedural driving datasets that need no download."""

from __future__ import annotations

from dabnn.data.toy.cities import CITIES, City
from dabnn.data.toy.dataset import TOY_DATASETS, ToyStreets
from dabnn.data.toy.style import Category, LabelSpace, Style

__all__ = ["CITIES", "TOY_DATASETS", "Category", "City", "LabelSpace", "Style", "ToyStreets"]
