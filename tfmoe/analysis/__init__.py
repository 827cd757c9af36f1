"""Costs of a model, computed without allocating it, and plots of training runs."""
