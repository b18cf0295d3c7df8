"""The configuration's JSON Schema, for editors."""

from __future__ import annotations

import json
from typing import Any

from jaxprop.config.schema.config import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
BASE = {"type": "string", "description": "a config to inherit from: a path relative to this file, or a packaged name"}


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a config file.

    A file with a `base` may leave out any key, so that only the names of its sections can be checked without
    reading the base.

    Returns:
      The schema, as JSON values.

    Example:
      >>> json_schema()["else"]["required"]
      ['task', 'data', 'model', 'optimizer', 'run']

    Reference:
      https://json-schema.org/draft/2020-12
    """
    schema = Config.model_json_schema()
    definitions = schema.pop("$defs")
    sections = schema["properties"]
    partial = {name: {"type": "object", "description": part.get("description", "")} for name, part in sections.items()}
    inherits = {"properties": {"base": BASE, **partial}, "additionalProperties": False}
    return {
        "$schema": DIALECT,
        "title": "jaxprop config",
        "description": schema["description"],
        "type": "object",
        "if": {"required": ["base"]},
        "then": inherits,
        "else": {key: schema[key] for key in ("properties", "required", "additionalProperties")},
        "$defs": definitions,
    }


def schema_text() -> str:
    """Returns the text of `configs/schema.json`."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
