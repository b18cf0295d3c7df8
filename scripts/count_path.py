"""What of jaxprop runs from `main` to the differentiation of the loss: frames, files and lines of code.

    python scripts/count_path.py [--json | --write]

It starts `jaxprop train digits_mlp` in this process and stops where `jaxprop/train/` first calls a function
that JAX has made of the loss. Files are all those of the package that have been imported by then, since importing a
file runs it; none is chosen by hand. Lines are lines of code: no blank lines, comments or docstrings.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxprop"
COMMAND = ["train", "digits_mlp", "run.steps=2", "optimizer.schedule.warmup_steps=1"]
DIFFERENTIATE = ("grad", "value_and_grad", "vjp")
HEADING = "## How long the path is"


class Reached(BaseException):
    """Ends the command; no error that it could handle."""


class Frame(NamedTuple):
    """A call that has not returned: its file in the package, its line, its function."""

    file: str
    line: int
    function: str


class Count(NamedTuple):
    """Our frames at the differentiation, outermost first, and the lines of code of every file that has run."""

    frames: list[Frame]
    files: dict[str, int]


def count() -> Count:
    """Runs the command up to the differentiation; only right in a process that has not imported jaxprop."""
    if "jaxprop" in sys.modules:
        raise RuntimeError("jaxprop is imported already; count in a process of its own")
    sys.path.insert(0, str(ROOT))
    reached: list[Count] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        from jaxprop import cli

        _stop_at_differentiation(reached)
        try:
            code = cli.main([*COMMAND, "--run", folder])
        except Reached:
            return reached[0]
    raise SystemExit(f"the command ended with exit code {code} and differentiated no loss:\n{said.getvalue()}")


def _stop_at_differentiation(reached: list[Count]) -> None:
    """Makes what `jax.grad` and its like return stop and count, where the train step calls it."""
    import jax

    def watched(transformation: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(transformation)
        def make(*args: Any, **kwargs: Any) -> Any:
            made = transformation(*args, **kwargs)
            if not callable(made):
                return made

            @wraps(made)
            def call(*args: Any, **kwargs: Any) -> Any:
                caller = sys._getframe(1)
                if Path(caller.f_code.co_filename).is_relative_to(PACKAGE / "train"):
                    reached.append(Count(our_frames(caller), imported_files()))
                    raise Reached
                return made(*args, **kwargs)

            return call

        return make

    for name in DIFFERENTIATE:
        setattr(jax, name, watched(getattr(jax, name)))


def imported_files() -> dict[str, int]:
    """The lines of code of every file of the package that has been imported."""
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    ours = sorted(file for file in files if file.is_relative_to(PACKAGE))
    return {_name(file): code_lines(file.read_text(encoding="utf-8")) for file in ours}


def our_frames(frame: FrameType | None) -> list[Frame]:
    """The frames of the package from the outermost to this one."""
    found = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            found.append(Frame(_name(file), frame.f_lineno, frame.f_code.co_qualname))
        frame = frame.f_back
    return found[::-1]


def _name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and i not in documented for i, line in lines)


def table(counted: Count) -> str:
    """The count in Markdown: the totals, then the frames."""
    on_stack = {frame.file for frame in counted.frames}
    lines = [
        "| up to the call that differentiates the loss | files | lines of code |",
        "|---|---:|---:|",
        f"| every file that has run, imports included | {len(counted.files)} | {sum(counted.files.values()):,} |",
        f"| files of the {len(counted.frames)} frames on the stack | {len(on_stack)} "
        f"| {sum(counted.files[file] for file in on_stack):,} |",
        "",
        "| frame | file | function |",
        "|---:|---|---|",
    ]
    lines += [f"| {i} | `{frame.file}` | `{frame.function}` |" for i, frame in enumerate(counted.frames, 1)]
    return "\n".join(lines)


def write(counted: Count) -> None:
    """Puts the table into the guide for contributors, in place of the old one."""
    path = ROOT / "CONTRIBUTING.md"
    before, heading, section = path.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")
    if not heading:
        raise SystemExit(f"{path} has no section {HEADING!r}")
    section, after = re.match(r"(.*?)(\n## .*|\Z)", section, re.DOTALL).groups()
    words = section.partition("\n| ")[0].rstrip()
    path.write_text(f"{before}{heading}{words}\n\n{table(counted)}\n{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print the count as JSON")
    output.add_argument("--write", action="store_true", help="put the table into CONTRIBUTING.md")
    options = parser.parse_args()
    counted = count()
    if options.write:
        write(counted)
    print(json.dumps({"frames": counted.frames, "files": counted.files}) if options.json else table(counted))


if __name__ == "__main__":
    main()
