"""Proof and measurement on a GPU by one command, `tools/gpu.py`: kernels, families, speed, training, profiles."""
