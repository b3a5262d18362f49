"""Karn: the architect. The catalogue of blueprints that seeds can grow."""

from __future__ import annotations

from esper.karn.catalogue import CATALOGUE, CatalogueEntry, entry, fitting

__all__ = ["CATALOGUE", "CatalogueEntry", "entry", "fitting"]
