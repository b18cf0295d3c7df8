"""The public names: complete, lazy, and the same for a type checker as at run time."""

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jaxprop


@pytest.mark.parametrize("name", jaxprop.__all__)
def test_every_public_name_is_there_and_documented(name):
    found = getattr(jaxprop, name)
    assert found.__name__ == name
    assert found.__doc__
    assert name in dir(jaxprop)


def test_the_list_of_names_is_one():
    assert jaxprop.__all__ == sorted(jaxprop.__all__)
    assert set(jaxprop.__all__) == set(jaxprop._HOME)


def test_a_type_checker_sees_every_name_where_it_is():
    tree = ast.parse(inspect.getsource(jaxprop))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: node.module for block in guarded for node in block.body for alias in node.names}
    assert seen == {name: f"jaxprop.{home}" for name, home in jaxprop._HOME.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(ImportError, match="cannot import name 'make_trian_step'"):
        exec("from jaxprop import make_trian_step")
    assert not hasattr(jaxprop, "make_trian_step")


def test_the_version_is_the_project_s():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == jaxprop.__version__


def test_importing_jaxprop_does_not_import_jax():
    code = "import sys, jaxprop; print(sorted({'jax', 'numpy', 'flax', 'optax', 'pydantic'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("name", jaxprop.ROOMS)
def test_rooms_that_a_library_user_needs_come_with_the_package(name):
    code = f"import jaxprop; assert jaxprop.{name}.__name__ == 'jaxprop.{name}'"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
