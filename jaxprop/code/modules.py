"""Modules of the user, from a file or by name: each is run once, and what goes wrong is one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import traceback
from pathlib import Path as File
from types import ModuleType
from typing import Any

from jaxprop.config.schema.custom import Custom
from jaxprop.errors import JaxpropError, UsageError, did_you_mean, in_one_line

_PREFIX = "jaxprop_code_"  # of the names under which files are kept in sys.modules


def load_module(section: Custom) -> tuple[ModuleType, str | None]:
    """Returns the module that a section names, and the digest of its file. Each file is run once.

    Raises:
      UsageError: there is no such file or module, or it raises an error.
    """
    target = section.target
    if target.is_file:
        return _file_module(File(target.where))
    module = module_named(target.where)
    file = getattr(module, "__file__", None)
    try:
        return module, None if file is None else hashlib.sha256(File(file).read_bytes()).hexdigest()
    except OSError:
        return module, None


def _file_module(file: File) -> tuple[ModuleType, str]:
    source = _read(file)
    sha256 = hashlib.sha256(source).hexdigest()
    # A name of its own: `model.py` is no reason to hide an installed package called model. Dataclasses look it up.
    name = f"{_PREFIX}{file.stem}_{hashlib.sha256(str(file).encode() + source).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name], sha256
    try:
        compiled = compile(source, str(file), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # a ValueError of null bytes, in Python 3.11
        line = getattr(error, "lineno", None)
        what = f"{getattr(error, 'msg', error)}{f' on line {line}' if line else ''}"
        raise UsageError(f"{file.name} is not Python: {what}") from error
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    folder = str(file.parent)
    sys.path.insert(0, folder)  # as for `python my_model.py`: it may import what lies beside it
    try:
        exec(compiled, vars(module))
    except BaseException as error:
        what = told(error)  # which looks up the file among the modules
        del sys.modules[name]
        if isinstance(error, SystemExit):
            raise UsageError(
                f'{file.name} exits when it is imported; put that under if __name__ == "__main__"'
            ) from error
        if not isinstance(error, Exception) or isinstance(error, JaxpropError):
            raise
        raise UsageError(f"{file.name} raised {what} when it was imported{_install(error)}") from error
    finally:
        with contextlib.suppress(ValueError):  # it may have done so itself
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for imports inside its functions, after everything that is installed
    return module, sha256


def _read(file: File) -> bytes:
    if file.is_dir():
        raise UsageError(f"{file} is a folder; give a file, such as {file.name}/my_model.py")
    try:
        return file.read_bytes()
    except FileNotFoundError:
        near = did_you_mean(file.name, [other.name for other in file.parent.glob("*.py")])
        raise UsageError(f"there is no file {file}{near}") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


def module_named(name: str) -> ModuleType:
    """Returns a module by its dotted name; modules in the current folder are found too.

    Raises:
      UsageError: there is none, or it raises an error.
    """
    sys.path.insert(0, "")  # as with `python -m`
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {name!r}; write module:function, with the module in the current folder or "
                "installed"
            ) from error
        raise UsageError(f"{name} cannot be imported: {error}") from error
    except JaxpropError:
        raise
    except Exception as error:
        raise UsageError(f"{name} raised {told(error)} when it was imported{_install(error)}") from error
    finally:
        with contextlib.suppress(ValueError):  # it may have done so itself
            sys.path.remove("")
        if "" not in sys.path:
            sys.path.append("")  # for imports inside its functions, after everything that is installed


def named_in(module: ModuleType, section: Custom) -> Any:
    """Returns the class or function of a module that a section names; raises UsageError where there is none."""
    name, source = section.target.name, section.target.source
    if not hasattr(module, name):
        public = [other for other in vars(module) if not other.startswith("_")]
        raise UsageError(f"{source} has no {name!r}{did_you_mean(name, public)}")
    found = getattr(module, name)
    if not callable(found):
        raise UsageError(f"expected {section.name} to be a class or a function, got {type(found).__name__}")
    return found


def _install(error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    package = error.name.partition(".")[0]
    return f"; install it with: pip install {package}, or put {package}.py beside the file"


def told(error: BaseException) -> str:
    """Returns an error's class, where in the user's code it was raised, and its message, in one line."""
    message = in_one_line(error) or "no message"
    place = place_of(error)
    return f"{type(error).__name__}{f' on {place}' if place else ''}: {message}"


def place_of(error: BaseException) -> str | None:
    """Returns the last line of the user's own files that an error went through, as `line 7 of my_model.py`."""
    own = {vars(m).get("__file__", "") for name, m in [*sys.modules.items()] if name.startswith(_PREFIX)}
    folders = {File(file).parent for file in own}
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if frame.filename in own or File(frame.filename).parent in folders:
            return f"line {frame.lineno} of {File(frame.filename).name}"
    return None
