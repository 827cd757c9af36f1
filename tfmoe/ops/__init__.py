"""Stateless tensor maths: no layers, no variables."""
