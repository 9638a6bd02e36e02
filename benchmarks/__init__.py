"""Measurements of poolnet beside raw limits taken in the same run; `python -m benchmarks`."""
