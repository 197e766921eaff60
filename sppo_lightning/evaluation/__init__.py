"""Measuring policies against each other, apart from training."""
