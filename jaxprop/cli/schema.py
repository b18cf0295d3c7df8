"""`jaxprop schema`: prints the JSON Schema of configs."""

from __future__ import annotations

from jaxprop.cli.arguments import JsonOption
from jaxprop.cli.output import print_result
from jaxprop.errors import EXIT_DONE


def schema(json: JsonOption = False) -> int:
    """Print the JSON Schema of configs, with which editors check them."""
    from jaxprop.config.schema_json import json_schema, schema_text

    if json:
        print_result("schema", None, {"schema": json_schema()}, indent=2)
    else:
        print(schema_text(), end="")
    return EXIT_DONE
