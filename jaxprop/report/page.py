"""The page: one self-contained HTML file, which loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jaxprop.errors import UsageError
from jaxprop.untrusted.writes import write_whole

SCRIPTS = ("uplot/uPlot.iife.min.js", "dom.js", "curves.js", "maps.js", "panels.js", "sweep.js", "page.js")
STYLES = ("uplot/uPlot.min.css", "page.css")
SUFFIXES = (".html", ".htm")
# Characters that may begin a tag or a character reference. `json.dumps` already escapes all that are not ASCII.
ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def render(data: dict[str, Any], live: bool = False) -> str:
    """Returns the page as the text of one HTML file.

    Only scripts and styles with known hashes are allowed, so that no text from a run's files can be executed.

    Args:
      data: the value returned by `payload`.
      live: whether the page fetches newer data from its own server.

    Returns:
      The text of the file.
    """
    scripts = [asset(name) for name in SCRIPTS]
    styles = [asset(name) for name in STYLES]
    parts = {
        "policy": policy(scripts, styles, live),
        "title": html.escape(f"{data['title']} - jaxprop report"),
        "styles": "\n".join(f"<style>{style}</style>" for style in styles),
        "mode": "live" if live else "still",
        "data": encode(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    before, *rest = asset("template.html").split("{{")
    pieces = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        pieces += [parts[name], after]
    return "".join(pieces)


def asset(name: str) -> str:
    """Returns the text of a file in `jaxprop/report/assets`."""
    return resources.files("jaxprop.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


def policy(scripts: list[str], styles: list[str], live: bool) -> str:
    """Returns the content security policy that allows these texts and nothing else."""
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def encode(data: Any) -> str:
    """Returns JSON that is safe inside a script element.

    Example:
      >>> encode({"name": "</script>"})
      '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(ESCAPED)


def target(out: Path | None, folder: Path) -> Path:
    """Returns the file to write.

    Args:
      out: the requested file or folder; by default `report.html` in the run's folder.
      folder: the folder of the first run.

    Raises:
      UsageError: the name is not that of an HTML file, so that it may be one of the run's own files.
    """
    path = folder / "report.html" if out is None else out / "report.html" if out.is_dir() else out
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {path}: expected a file that ends in .html; write --out {path.name}.html")
    return path


def write(path: Path, text: str) -> None:
    """Writes the page whole or not at all, and through no link.

    Raises:
      UsageError: it cannot be written.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); name another file with --out FILE.html"
        ) from error
