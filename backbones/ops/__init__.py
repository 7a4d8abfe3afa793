"""Execution: what computes the layers' definitions fast, and gives the same results."""
