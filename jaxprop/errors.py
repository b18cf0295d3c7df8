"""Errors a person sees: one clear sentence with the fix, and the exit code that goes with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

EXIT_DONE = 0
EXIT_RUNTIME = 1
EXIT_USAGE = 2
EXIT_DIVERGED = 3
EXIT_SIGTERM = 75
EXIT_SIGINT = 130
MOST_PROBLEMS = 50  # of a configuration that are told at once


class JaxpropError(ValueError):
    """Base of every error jaxprop raises for a person; `exit_code` is the command line's."""

    exit_code = EXIT_RUNTIME


class ConfigError(JaxpropError):
    """One or more problems in a configuration, all reported together."""

    exit_code = EXIT_USAGE

    def __init__(self, problems: str | Sequence[str]):
        told = [problems] if isinstance(problems, str) else list(problems)
        more = [f"and {len(told) - MOST_PROBLEMS} more problems"] if len(told) > MOST_PROBLEMS else []
        # A name in a file may hold a line break, and what follows it would look like a line of ours.
        self.problems = [printable(problem) for problem in (*told[:MOST_PROBLEMS], *more)]
        super().__init__("\n".join(self.problems))


class UsageError(JaxpropError):
    """The command line was given something it cannot act on."""

    exit_code = EXIT_USAGE


class DataError(JaxpropError):
    """The data cannot be used: labels outside the classes, non-finite values, shapes that disagree."""


class ShapeError(JaxpropError):
    """Arrays whose shapes or dtypes do not fit together."""


class CheckpointError(JaxpropError):
    """A checkpoint cannot be written, read, or continued from."""


class OutOfMemoryError(JaxpropError):
    """A run does not fit in the memory of its devices or of the host."""


class HungError(JaxpropError):
    """A run came no further for so long that it was ended."""


class RunFolderError(JaxpropError):
    """A run's folder is held by another process, unwritable, or belongs to another run."""


class MissingExtraError(JaxpropError):
    """An optional dependency is needed but not installed.

    Args:
      package: the package as it is imported.
      what: what needs it.
      install: what pip calls it, where that is another name, such as `pillow` for `PIL`.
    """

    def __init__(self, package: str, what: str, install: str | None = None):
        # The dependency itself: the index's own "jaxprop" is an unrelated project, so an extra of it installs nothing.
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed; "
            f"install it with: pip install {install or package}"
        )


def in_one_line(error: BaseException) -> str:
    """Returns what an error says, in one line.

    Example:
      >>> in_one_line(UsageError("another model:\\n  width: 8 -> 4\\nuse --fresh"))
      'another model: width: 8 -> 4 use --fresh'
    """
    return " ".join(str(error).split())


def printable(text: str, *, lines: bool = False) -> str:
    """Returns a text that a terminal shows as it is: every control character becomes a question mark.

    What stands in a file may be anyone's, and a terminal acts on escape sequences. Everything that quotes a file on a
    terminal goes through this function.

    Args:
      text: any text.
      lines: whether line breaks are kept.

    Example:
      >>> printable("a\\x1b[31mb\\n"), printable("one\\ntwo\\tthree", lines=True)
      ('a?[31mb?', 'one\\ntwo three')
    """
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(c if c.isprintable() or c in kept else " " if c == "\t" else "?" for c in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the nearest known name, or an empty string.

    Args:
      name: what was written.
      known: the names that are valid there.

    Returns:
      A clause to append to a message.

    Example:
      >>> did_you_mean("optimiser", ["optimizer", "model"])
      "; did you mean 'optimizer'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """Returns the sentence for a name outside a known set, listing the set.

    Example:
      >>> one_of("adm", ["adam", "sgd"], "optimizer")
      "unknown optimizer 'adm'; did you mean 'adam'? (known: adam, sgd)"
    """
    known = sorted(known)
    return f"unknown {what} {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})"
