"""The command line ``dabnn``."""
