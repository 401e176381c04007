"""Layers written once for 1, 2 and 3 dimensions."""
