"""Where an equation of a jaxpr was written: the user's file and line, behind those of the libraries. Pure."""

from __future__ import annotations

import re
import sysconfig
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn

from jaxprop.core.jaxprs.walk import body_of

# Whoever calls these wants their own line, not the library's.
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "equinox", "haiku", "numpy", "orbax", "jaxtyping", "einops")
_STANDARD = sysconfig.get_path("stdlib")
_HERE = __file__.replace("\\", "/").rpartition("/core/")[0] + "/"
_CUSTOM_DERIVATIVES = f"{jax.__file__.rpartition('/')[0]}/_src/custom_derivatives"
_PLACE = re.compile(r"^(?P<function>.*) at (?P<file>.*):(?P<line>\d+)$", re.DOTALL)
_MODELS = ("models/", "losses/", "metrics/", "data/augment/")  # what of this package computes the loss
_AROUND = ("models/adapters/", "models/remat")  # what calls it


class Site(NamedTuple):
    """A line of source code; `file` is None where there is none that a person wrote."""

    file: str | None
    line: int | None
    function: str | None

    @property
    def place(self) -> str:
        """`file:line`, or an empty string where there is none."""
        return "" if self.file is None else f"{self.file}:{self.line}"


NOWHERE = Site(None, None, None)


def site_of(equation: JaxprEqn) -> Site:
    """Returns the innermost line of an equation's traceback that belongs to no library.

    Args:
      equation: of a jaxpr.

    Example:
      >>> import jax
      >>> equation, = jax.make_jaxpr(lambda x: jax.numpy.sin(x))(1.0).eqns
      >>> site_of(equation).function
      '<lambda>'
    """
    traceback: Any = equation.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if is_written(frame.file_name):
            return Site(frame.file_name, frame.line_num, frame.function_name.rpartition("<locals>.")[2])
    return NOWHERE


def is_written(file: str) -> bool:
    """Whether a file is a person's and not a library's, the interpreter's or the training loop's.

    Example:
      >>> is_written("/home/me/model.py"), is_written("/usr/lib/python3.11/site-packages/jax/_src/core.py")
      (True, False)
    """
    file = file.replace("\\", "/")
    if file.startswith("<frozen"):
        return False
    if file.startswith(_HERE):
        inside = file.removeprefix(_HERE)
        return inside.startswith(_MODELS) and not inside.startswith(_AROUND)
    for packages in ("/site-packages/", "/dist-packages/"):
        if packages in file:
            return file.rpartition(packages)[2].partition("/")[0] not in LIBRARIES
    return not file.startswith(_STANDARD)


def is_library_function(jaxpr: Jaxpr) -> bool:
    """Whether a library wrote the function that a jaxpr was traced from.

    jit keeps the trace of `jnp.where` and the like for the whole process, with the line of whoever called it first.
    """
    info = getattr(jaxpr, "debug_info", None)
    source = getattr(info, "func_filename", None)
    return source is not None and not is_written(source)


def scope_of(stack: str) -> str:
    """Returns the named scopes in an equation's name stack, without what the differentiation adds.

    Example:
      >>> scope_of("transpose(jvp(net/head))/jvp(net/head)/rematted_computation/softmax")
      'net/head/softmax'
    """
    for wrapper in ("transpose(", "jvp(", "vmap(", "checkpoint(", "rematted_computation", ")"):
        stack = stack.replace(wrapper, "")
    names = [name for name in stack.split("/") if name]
    half = next((n for n in range(len(names) // 2, 0, -1) if names[:n] == names[n : 2 * n]), 0)  # remat says it twice
    return "/".join(names[half:])


def is_backward(stack: str) -> bool:
    """Whether a name stack belongs to the backward pass; what remat computes again there does not.

    Example:
      >>> is_backward("transpose(jvp(head))"), is_backward("transpose(jvp(head))/rematted_computation")
      (True, False)
    """
    return "transpose(" in stack and "rematted_computation" not in stack


def rule_site(equation: JaxprEqn) -> Site:
    """Returns where the rule of a `custom_vjp` or `custom_jvp` call is written: its backward pass, or its jvp.

    Unlike `site_of` this may be a line of a library, since the rule is what is looked for, and not who calls it.

    Example:
      >>> square = jax.custom_vjp(lambda x: x * x)
      >>> def backward(x, g):
      ...     return (2 * x * g,)
      >>> square.defvjp(lambda x: (x * x, x), backward)
      >>> rule_site(jax.make_jaxpr(square)(1.0).eqns[0]).function
      'backward'
    """
    # What jax wraps a rule in knows the rule's place, and so does the function it stands for.
    known = [equation.params.get("bwd"), equation.params.get("jvp_jaxpr_fun"), _ruled(equation)]
    for holder in known:
        match = _PLACE.match(getattr(getattr(holder, "debug_info", None), "func_src_info", None) or "")
        if match and not match["file"].startswith(_CUSTOM_DERIVATIVES):
            return Site(match["file"], int(match["line"]), match["function"].rpartition(".")[2])
    return site_of(equation)


def rule_name(equation: JaxprEqn) -> str:
    """Returns the name of the function that a custom rule stands for.

    Example:
      >>> square = jax.custom_vjp(lambda x: x * x)
      >>> square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
      >>> rule_name(jax.make_jaxpr(square)(1.0).eqns[0])
      '<lambda>'
    """
    info = getattr(_ruled(equation), "debug_info", None)
    return str(equation.params.get("name") or getattr(info, "func_name", None) or "a function")


def _ruled(equation: JaxprEqn) -> Jaxpr | None:
    """The function that a custom rule stands for."""
    body = body_of(equation)
    return None if body is None else body.jaxpr
