"""Esper: PyTorch models that grow themselves."""
