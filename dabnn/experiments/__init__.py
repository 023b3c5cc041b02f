"""Experiments from a config file: build, train by a method, evaluate, tabulate."""
