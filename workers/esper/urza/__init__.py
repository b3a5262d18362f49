"""Urza: the library of blueprints and kernels."""
