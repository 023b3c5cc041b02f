"""The version of dabnn, written down here alone."""

__version__ = "0.1.0"
