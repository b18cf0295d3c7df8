"""The path and the modules of this process stay as they are."""

import sys

import pytest


@pytest.fixture(autouse=True)
def as_before():
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("jaxprop_code_", "mine")):
            del sys.modules[name]
