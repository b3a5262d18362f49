"""Saving a grown model and loading it again as an ordinary ``nn.Module``: tensors and JSON, never pickle."""

from __future__ import annotations

from esper.persist.grown import Grown
from esper.persist.loading import load_model, read_lineage
from esper.persist.saving import save_model

__all__ = ["Grown", "load_model", "read_lineage", "save_model"]
