"""The command line. `main` turns every error into one sentence and an exit code."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME, EXIT_SIGINT, EXIT_SIGTERM, ConfigError, JaxpropError
from jaxprop.run.allocator import restart_with_allocator
from jaxprop.run.compile_cache import open_cache
from jaxprop.sinks.streams import FULL, Lasting, replace_closed, silence, tell

VERBOSE = ("-v", "--verbose")
LAST_SECONDS = 5.0  # that a process which a signal has stopped has to end
COMPUTING = (
    "train",
    "retrain",
    "lr-find",
    "sweep",
    "coord-check",
    "lesson",
    "gradcheck",
    "explain",
    "bench",
)  # what a faster allocator is worth starting anew for
COMPILING = (
    *COMPUTING,
    "eval",
    "predict",
    "generate",
    "export",
    "replay",
    "info",
)  # whose programs are kept for the next start


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments after the program's name; default: `sys.argv`.

    Returns:
      The exit code: 0 done, 1 runtime error, 2 usage or configuration, and a command's own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    replace_closed()
    if argv is None:
        _protect_children()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.enable()  # a file cut short under its map ends the process: not without a word
    if argv is None and any(argument in COMPUTING for argument in arguments[:2]):
        restart_with_allocator(["-m", "jaxprop", *arguments], os.environ)
    if argv is None and any(argument in COMPILING for argument in arguments[:2]):
        open_cache(os.environ, tell)
    verbose = any(argument in VERBOSE for argument in arguments)
    logging.getLogger("jaxprop").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    try:
        # Where the reader of a pipe has left, as `head` does, the command goes on to its own exit code.
        with contextlib.redirect_stdout(Lasting(sys.stdout, (BrokenPipeError,))):
            code = _run([argument for argument in arguments if argument not in VERBOSE])
    except KeyboardInterrupt:
        code = EXIT_SIGINT
    except Exception as error:
        if isinstance(error, OSError) and _flushed(EXIT_DONE) != EXIT_DONE:
            return EXIT_RUNTIME
        if verbose:
            tell(traceback.format_exc().rstrip())
        # Unbuffered, a full stdout fails within the command. Such an error names no file, as one of opening does.
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            tell(f"error: the output cannot be written ({error.strerror})")
            silence(sys.stdout)
            return EXIT_RUNTIME
        _tell(error)
        code = error.exit_code if isinstance(error, JaxpropError) else EXIT_RUNTIME
    if argv is None and code in (EXIT_SIGINT, EXIT_SIGTERM):
        from jaxprop.run.interrupt import end_within

        end_within(LAST_SECONDS, code)
    return _flushed(code)


def _protect_children() -> None:
    """Has Python processes that are started from here not look for modules in the working directory."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if package != os.getcwd():  # a checkout that is not installed is found nowhere else
        os.environ.setdefault("PYTHONSAFEPATH", "1")


def _flushed(code: int) -> int:
    """Writes out what stdout still holds; returns the exit code, which that may change."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return code
    except (OSError, ValueError) as error:
        silence(sys.stdout)
        if code == EXIT_DONE:
            tell(f"error: the output cannot be written ({getattr(error, 'strerror', None) or error})")
        return code or EXIT_RUNTIME
    return code


def _run(arguments: list[str]) -> int:
    # pydantic searches every installed distribution for plugins, which would double the time of a command like --help.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from jaxprop.cli.app import app

    try:
        app(args=arguments, prog_name="jaxprop")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_DONE
    return EXIT_DONE


def _tell(error: Exception) -> None:
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        message = f"{len(error.problems)} problems in the configuration{lines}"
    elif isinstance(error, JaxpropError):
        message = str(error)
    else:
        from jaxprop.code.modules import told

        message = f"{told(error)} (run again with -v for the traceback)"
    # jax adds a note, after a rule of dashes, about the frames that it removed from the traceback.
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()) if not note.startswith("-----"))
    tell(f"error: {message}{notes}")
