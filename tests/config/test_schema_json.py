import json

import pytest

from jaxprop.config.load import load
from jaxprop.config.locate import packaged, packaged_folder, schema_comment
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.optax_table import OPTIMIZERS
from jaxprop.config.schema_json import json_schema, schema_text


def objects(schema):
    """Every mapping inside a schema."""
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from objects(inner)


def test_the_committed_schema_is_the_one_printed():
    text = (packaged_folder() / "schema.json").read_text(encoding="utf-8")
    assert text == schema_text(), "out of date: jaxprop schema > schema.json, then move it to configs/"


def test_every_reference_resolves():
    schema = json_schema()
    for part in objects(schema):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def test_sections_are_closed_and_described():
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["else"]["properties"]) == set(Config.model_fields)
    for name, definition in schema["$defs"].items():
        # code of one's own has arguments of its own, and then no name
        own = name.startswith("Custom")
        assert definition["additionalProperties"] is own, name
        assert ("not" in definition) is own, name
        assert definition["description"], name


@pytest.mark.parametrize(
    "section",
    [
        "Run",
        "Checkpoint",
        "Sinks",
        "Health",
        "Precision",
        "Digits",
        "Arrays",
        "Mlp",
        "Rnn",
        "Transformer",
        "CustomModel",
        "CustomData",
        "CustomOptimizer",
        "CustomLoss",
        "CustomMetric",
    ],
)
def test_every_key_is_described(section):
    for key, part in json_schema()["$defs"][section]["properties"].items():
        assert key == "name" or part.get("description"), key


def test_every_optimizer_is_there():
    names = [part.get("const") for part in objects(json_schema()["else"]["properties"]["optimizer"])]
    assert set(OPTIMIZERS) <= set(names)


def test_with_a_base_only_the_sections_names_are_checked():
    inherits = json_schema()["then"]
    assert set(inherits["properties"]) == {"base", *Config.model_fields}
    assert "required" not in inherits


def test_packaged_configs_are_valid_and_point_at_the_schema():
    for name, path in packaged().items():
        assert path.read_text().splitlines()[0] == schema_comment(path.parent), name
        load(name)


def test_it_is_json():
    assert json.loads(schema_text()) == json_schema()
