"""Functions named on the command line, as `module:function`."""

from __future__ import annotations

from typing import Any

from jaxprop.errors import UsageError, did_you_mean


def named(target: str) -> tuple[Any, Any]:
    """Returns the module and the object that `module:name` names; modules in the current folder are found too."""
    from jaxprop.code.modules import module_named  # which loads pydantic, and `--help` does not

    name, _, attribute = target.partition(":")
    module = module_named(name)
    if not hasattr(module, attribute):
        raise UsageError(f"module {name!r} has no {attribute!r}{did_you_mean(attribute, dir(module))}")
    return module, getattr(module, attribute)
