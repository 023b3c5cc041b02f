"""The datasets that dabnn reads, in their official layouts."""
