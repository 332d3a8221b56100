"""The VRM consortium's JSON schemas, if a copy of its specification is on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

# What the schemas take from glTF's own: names only, and integers that count from 0.
_GLTF: dict[str, Any] = {
    "glTFProperty.schema.json": {"type": "object", "properties": {"extensions": {}, "extras": {}}},
    "glTFid.schema.json": {"type": "integer", "minimum": 0},
    "textureInfo.schema.json": {"type": "object"},
}
_SCHEMAS = {
    "VRM": "vrm.schema.json",
    "VRMC_vrm": "VRMC_vrm.schema.json",
    "VRMC_springBone": "VRMC_springBone.schema.json",
}


def schema_errors(extension: str, content: Any) -> list[str]:
    """Where an extension's content breaks its schema; names that the schema does not know count too.

    Skips the test unless VRM_SCHEMAS names the folder ``specification`` of a copy of
    github.com/vrm-c/vrm-specification.
    """
    folder = os.environ.get("VRM_SCHEMAS")
    if folder is None:
        pytest.skip("VRM_SCHEMAS names the folder `specification` of a copy of vrm-c/vrm-specification")
    jsonschema = pytest.importorskip("jsonschema")
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    found = dict(_GLTF)
    for file in Path(folder).glob("*/schema/*.schema.json"):
        found[file.name] = _strict(json.loads(file.read_text()))
    resources = {name: Resource(content, DRAFT202012) for name, content in found.items()}
    validator = jsonschema.Draft202012Validator(
        {"$ref": _SCHEMAS[extension]}, registry=Registry().with_resources(resources.items())
    )
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(content)]


def _strict(schema: Any) -> Any:
    """The same schema, and no property beside those that it names."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items() if key != "$schema"}
    if isinstance(strict.get("properties"), dict) and strict.get("type") == "object":
        strict.setdefault("unevaluatedProperties", False)
    return strict
