"""Benchmarks: `python -m benchmarks` runs them all and prints figures, targets and the machine."""
