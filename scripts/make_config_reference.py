"""Writes docs/config-reference.md from the schema of configurations.

    python scripts/make_config_reference.py

tests/test_scripts.py checks that the committed file is what this script writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxprop.config.schema.optax_table import LEFT_OUT, OPTIMIZERS
from jaxprop.config.schema_json import json_schema
from jaxprop.config.tasks import TASK_TABLE

REFERENCE = Path(__file__).parents[1] / "docs" / "config-reference.md"
INTRODUCTION = """\
# Configuration reference

A configuration is a YAML file with the sections below. `task`, `data`, `model`, `optimizer` and `run` are required; the
other sections have defaults for all of their keys. [running.md](running.md) describes how configurations are written,
inherited and overridden.

A key without a default is required. "null" means that the key is not set. Unknown keys and values of another type are
errors: nothing is converted, so that `true` is not accepted for a number, nor `7` in quotes. Numbers are read as in
YAML 1.2, so that `1e-3` is a number and `no` is a string.

This page is written by `scripts/make_config_reference.py` from the schema that configurations are checked with.
`jaxprop schema` prints the same schema for editors.
"""
TASKS = """\
The losses, data, models and metrics that fit each task. The first loss is the default. "min" and "max" say which value
of a metric is the best one, for `checkpoint.mode`.
"""
AUGMENT = """\
The items of `data.augment`, which are applied in the order of the list. Text has none.
"""
OPTIMIZERS_INTRODUCTION = """\
`name` is the name of an optimizer in optax. Each optimizer takes the arguments of the optax function by their names
there, with the defaults below. `lr` is the learning rate. The keys that all optimizers have are listed first.
"""
OPTIMIZER_OF_A_GROUP = """\
A section like `optimizer`, without `groups`: `name` or `class`, `lr`, the arguments of the optimizer, and these keys.
"""
LEFT_OUT_INTRODUCTION = "These optimizers of optax cannot be named in a configuration:"


def main() -> None:
    """Writes the file."""
    REFERENCE.write_text(reference(), encoding="utf-8")
    print(f"wrote {REFERENCE}")


def reference() -> str:
    """Returns the text of docs/config-reference.md."""
    schema = json_schema()
    definitions, sections = schema["$defs"], schema["else"]["properties"]
    parts = [INTRODUCTION]
    for name, section in sections.items():
        required = name in schema["else"]["required"]
        parts.append(f"## `{name}`\n\n{'Required' if required else 'Optional'}: {section['description']}.\n")
        if name == "optimizer":
            parts += optimizers(section, definitions)
            continue
        variants = variants_of(section, definitions)
        if len(variants) == 1:
            parts.append(table(variants[0], definitions))
            parts += nested(name, variants[0], definitions)
        else:
            parts += [described(variant, f"{name}.name", definitions) for variant in variants]
        if name == "data":
            trained = definitions["TrainedTokenizer"]
            parts.append(f"### `data.tokenizer`\n\n{trained['description']}\n\n{table(trained, definitions)}")
            parts.append(AUGMENT)
            parts += [described(item, "data.augment.name", definitions) for item in augmentations(definitions)]
        if name == "task":
            parts += [TASKS, tasks()]
            parts += [described(loss, "task.loss.name", definitions) for loss in losses(definitions)]
            parts.append(described(definitions["CustomMetric"], "task.metrics.NAME.name", definitions))
    return "\n".join(parts)


def described(variant: Mapping[str, Any], key: str, definitions: Mapping[str, Any]) -> str:
    """Returns the heading, the description and the table of one of the variants that a `name` chooses among.

    Args:
      variant: its schema.
      key: the dotted name of the key that chooses it, such as `model.name`; code of the user's own has `class` there.
      definitions: of the whole schema.
    """
    named, about = variant["properties"].get("name"), variant["description"]
    chosen = f"{key}: {named['const']}" if named else f"{key.rpartition('.')[0]}.class"
    return f"### `{chosen}`\n\n{about}\n\n{table(variant, definitions, without=('name', 'class_sha256'))}"


def table(variant: Mapping[str, Any], definitions: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    """Returns the table of the keys of a section."""
    required = variant.get("required", [])
    rows = []
    for key, value in variant["properties"].items():
        if key in without:
            continue
        default = "" if key in required else code(value.get("default"))
        rows.append(f"| `{key}` | {kind(value, definitions)} | {default} | {cell(value.get('description', ''))} |")
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""]) if rows else "No keys.\n"


def nested(name: str, section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yields the part of every key of a section that is a mapping with keys of its own.

    Args:
      name: of the section, such as `run`.
      section: its schema.
      definitions: of the whole schema.
    """
    for key, value in section["properties"].items():
        for inner in variants_of(value, definitions):
            # where the name is one of several variants, each has a part of its own
            if "properties" in inner and "const" not in inner["properties"].get("name", {}):
                yield f"### `{name}.{key}`\n\n{inner['description']}\n\n{table(inner, definitions)}"
                yield from items_of(f"{name}.{key}", inner, definitions)


def items_of(name: str, section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yields the part of every key of a section that is a list of mappings; arguments are those of `nested`."""
    for key, value in section["properties"].items():
        for inner in variants_of(value, definitions):
            for item in variants_of(inner.get("items", {}), definitions):
                if "properties" in item:
                    yield f"### An item of `{name}.{key}`\n\n{item['description']}\n\n{table(item, definitions)}"


def optimizers(section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yields the part of the section `optimizer`: the shared keys, schedules, groups, and every optimizer."""
    first = next(iter(section["oneOf"]))
    own = {"name", "lr", *OPTIMIZERS[first["title"]]["arguments"]}
    shared = {key: value for key, value in first["properties"].items() if key not in own}
    yield OPTIMIZERS_INTRODUCTION
    yield table({"properties": shared}, definitions)
    for schedule in variants_of(first["properties"]["schedule"], definitions):
        yield described(schedule, "optimizer.schedule.name", definitions)
    for title, name in (("optimizer.grad_clip", "GradClip"), ("optimizer.groups", "Group")):
        yield f"### `{title}`\n\n{definitions[name]['description']}\n\n{table(definitions[name], definitions)}"
    yield f"### `optimizer.groups.optimizer`\n\n{OPTIMIZER_OF_A_GROUP}"
    of_group = next(iter(definitions["Group"]["properties"]["optimizer"]["oneOf"]))
    others = {key: value for key, value in of_group["properties"].items() if key not in own}
    yield table({"properties": others}, definitions)
    yield "### Optimizers\n"
    yield "| name | lr | other arguments |\n|---|---|---|"
    yield "\n".join(optimizer_row(name, row) for name, row in OPTIMIZERS.items()) + "\n"
    yield f"{LEFT_OUT_INTRODUCTION}\n"
    yield "\n".join(f"- `{name}`: {why}." for name, why in LEFT_OUT.items()) + "\n"
    yield described(definitions["CustomOptimizer"], "optimizer.name", definitions)


def optimizer_row(name: str, row: Mapping[str, Any]) -> str:
    """Returns the row of one optimizer: its learning rate, and its arguments with their defaults."""
    default = row["lr"][1]
    rate = "required" if default is ... else code(default)
    arguments = ", ".join(f"`{key}={json.dumps(value)}`" for key, (_, value) in row["arguments"].items())
    return f"| `{name}` | {rate} | {arguments} |"


def tasks() -> str:
    """Returns the table of the losses, data, models and metrics of every task."""
    rows = [
        f"| `{name}` | {listed(entry.losses)} | {listed(entry.data)} | {listed(entry.models)} | "
        f"{', '.join(f'`{figure}` ({f.better})' for figure, f in entry.figures.items())} |"
        for name, entry in TASK_TABLE.items()
    ]
    return "\n".join(["| task | losses | data | models | metrics |", "|---|---|---|---|---|", *rows, ""])


def listed(names: Iterable[str]) -> str:
    """Returns names for a cell of a table."""
    return ", ".join(f"`{name}`" for name in names)


def losses(definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the schemas of all losses."""
    return variants_of(definitions["Task"]["properties"]["loss"], definitions)


def augmentations(definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the schemas of all augmentations."""
    return variants_of(definitions["Digits"]["properties"]["augment"]["items"], definitions)


def variants_of(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the schemas that a value may have: one, or those that its `name` chooses among; null is left out."""
    if "$ref" in value:
        return variants_of(definitions[value["$ref"].rpartition("/")[2]], definitions)
    for key in ("oneOf", "anyOf"):
        if key in value:
            return [found for part in value[key] for found in variants_of(part, definitions)]
    return [] if value.get("type") == "null" else [value]


def kind(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Returns what a value may be, in words.

    Example:
      >>> kind({"type": "integer", "exclusiveMinimum": 0}, {})
      'integer > 0'
      >>> kind({"anyOf": [{"enum": ["auto"]}, {"type": "null"}]}, {})
      '`auto`'
    """
    if "const" in value:
        return code(value["const"])
    if "enum" in value:
        return ", ".join(code(item) for item in value["enum"])
    if "$ref" in value or "oneOf" in value or "anyOf" in value:
        variants = variants_of(value, definitions)
        named = [v for v in variants if "properties" in v]
        if len(named) > 1:
            return "a mapping with `name`, see below"
        return " or ".join(
            dict.fromkeys("a mapping, see below" if v in named else kind(v, definitions) for v in variants)
        )
    if value.get("type") == "array":
        items = value.get("items") or next(iter(value.get("prefixItems", [])), {})
        return f"list of {plural(kind(items, definitions))}" if items else "list"
    words = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text"}
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    # The largest int32 bounds every integer, which is said nowhere else either.
    limits = [f"{sign} {value[key]:g}" for key, sign in bounds.items() if key in value and value[key] != 2**31 - 1]
    return " ".join([words.get(value.get("type", ""), "mapping"), ", ".join(limits)]).strip()


def plural(words: str) -> str:
    """Returns what the items of a list may be, in words.

    Example:
      >>> plural("integer > 0")
      'integers > 0'
    """
    for one, several in (("integer", "integers"), ("number", "numbers"), ("a mapping", "mappings")):
        words = words.replace(one, several)
    return words


def code(value: Any) -> str:
    """Returns a YAML value as it is written in a configuration.

    Example:
      >>> code({"name": "constant"}), code(None), code(True)
      ('`{name: constant}`', 'null', '`true`')
    """
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {item}' for key, item in value.items())}}}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def cell(text: str) -> str:
    """Returns text that may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
