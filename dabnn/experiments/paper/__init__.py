"""The tables and figures of the paper, each by one call."""

from __future__ import annotations

from dabnn.experiments.paper.reproduction import compare, measured_table, reproduce, titles
from dabnn.experiments.paper.tables import SCALES, load_experiment, load_tables

__all__ = ["SCALES", "compare", "load_experiment", "load_tables", "measured_table", "reproduce", "titles"]
