"""The tables and figures of the paper, each by one call."""

from __future__ import annotations

from dabnn.experiments.paper.rendering import beside_paper
from dabnn.experiments.paper.reproduction import plan, reproduce, titles
from dabnn.experiments.paper.tables import SCALES, load_experiment, load_tables

__all__ = ["SCALES", "beside_paper", "load_experiment", "load_tables", "plan", "reproduce", "titles"]
