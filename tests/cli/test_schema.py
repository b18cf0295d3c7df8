import json

from jaxprop.config.schema_json import json_schema


def test_the_schema_and_nothing_else(jaxprop):
    ran = jaxprop("schema")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == json_schema()


def test_json_in_the_shape_of_every_command(jaxprop):
    found = json.loads(jaxprop("schema", "--json").out)
    assert found == {"command": "schema", "run": None, "schema": json_schema()}
