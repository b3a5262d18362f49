"""Leyline: what crosses a boundary."""
