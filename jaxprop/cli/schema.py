"""`jaxprop schema`: prints the JSON Schema of configs."""

from __future__ import annotations

from jaxprop.errors import EXIT_DONE


def schema() -> int:
    """Print the JSON Schema of configs, with which editors check them."""
    from jaxprop.config.schema_json import schema_text

    print(schema_text(), end="")
    return EXIT_DONE
