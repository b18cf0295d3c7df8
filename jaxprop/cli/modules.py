"""Functions named on the command line, as `module:function`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from jaxprop.errors import UsageError, did_you_mean


def named(target: str) -> tuple[Any, Any]:
    """Returns the module and the object that `module:name` names; modules in the current folder are found too."""
    name, _, attribute = target.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as with `python -m`
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"{name} cannot be imported: {error}") from error
        raise UsageError(
            f"there is no module {name!r}; write module:function, with the module in the current folder or installed"
        ) from error
    if not hasattr(module, attribute):
        raise UsageError(f"module {name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}")
    return module, getattr(module, attribute)
