"""Benchmarks, each figure beside its alternative in the same run."""
