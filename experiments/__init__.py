"""Experiments with optkit: fair comparisons and benchmarks. `python -m experiments --help` lists the commands."""
