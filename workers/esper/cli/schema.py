"""JSON schemas of what users write and programs read."""

from __future__ import annotations

import json

from pydantic import BaseModel


def schema_of(kind: str) -> str:
    """The JSON schema of ``kind`` (TrainingRun, Blueprint, KernelArtifact, Summary) as indented JSON."""
    model: type[BaseModel]
    if kind == "Summary":
        from esper.output.summary import Summary

        model = Summary
    else:
        from leyline import resources

        model = getattr(resources, kind)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2)
