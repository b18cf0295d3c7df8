"""`jaxprop schema`: the configuration's JSON Schema."""

from __future__ import annotations

from jaxprop.config.schema_json import schema_text
from jaxprop.errors import EXIT_DONE


def schema() -> int:
    """Prints the text of `configs/schema.json`."""
    print(schema_text(), end="")
    return EXIT_DONE
