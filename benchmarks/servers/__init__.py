"""Servers of a model in separate processes, and their clients; for benchmarks/serving.py."""
