"""The frame of every page: one self-contained HTML file without scripts, which loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from pathlib import Path

from jaxprop.bench.render.cells import right
from jaxprop.bench.render.tables import Table
from jaxprop.errors import UsageError
from jaxprop.untrusted.writes import write_whole

LIGHT = ("#0063a8", "#d04a00", "#009b72", "#7a2f6b", "#cf9d00", "#48a9e2", "#1c2128", "#d586b6")
DARK = ("#3d9be9", "#f07a30", "#18b08a", "#c96fb5", "#f5d85a", "#a5def5", "#f0f3f6", "#7b5fe0")

STYLE = """
:root { --page: #fff; --text: #1c2128; --muted: #5d6673; --faint: #f4f6f8; --grid: #e6e9ed; --bad: #c02d2d;
  --good: #00734f; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --text: #e3e7ec; --muted: #98a2af; --faint: #1d2228; --grid: #2a3139; --bad: #ff7b72;
    --good: #4cc79c; DARK }
}
* { box-sizing: border-box; }
html { background: var(--page); color: var(--text); color-scheme: light dark; }
body { margin: 0; font: 14px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 24px 64px; }
h1 { font-size: 20px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 34px 0 4px; overflow-wrap: anywhere; }
.by, .unit { color: var(--muted); }
.by { margin: 0; overflow-wrap: anywhere; }
.unit { font-size: 12px; }
.warn { color: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 8px 28px;
  margin-top: 12px; }
figure { margin: 8px 0; min-width: 0; }
figcaption { font-size: 13px; font-weight: 500; overflow-wrap: anywhere; }
figcaption .unit { font-weight: normal; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--muted); }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg polyline { fill: none; stroke-width: 2; }
svg circle { stroke: var(--page); stroke-width: 1; }
svg circle:hover { stroke: var(--text); stroke-width: 2; }
svg .bar { stroke-width: 1.5; opacity: 0.6; }
.legend { font-size: 12px; display: flex; flex-wrap: wrap; gap: 0 14px; color: var(--muted); padding-left: 8px; }
.key { overflow-wrap: anywhere; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 500; white-space: nowrap; }
td { max-width: 620px; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
td.nowrap, td.right { white-space: nowrap; }
.right { text-align: right; }
ul { margin: 6px 0; padding-left: 20px; max-width: 860px; }
COLOURS
"""


def style() -> str:
    """The style of every page, in which plots have the classes `line-0` and so on."""
    colours = "\n".join(
        f"svg polyline.line-{i}, svg .bar.line-{i} {{ stroke: var(--line-{i}); }}\n"
        f"svg circle.line-{i} {{ fill: var(--line-{i}); }}\n.dot.line-{i} {{ background: var(--line-{i}); }}"
        for i in range(len(LIGHT))
    )
    return STYLE.replace("LIGHT", _named(LIGHT)).replace("DARK", _named(DARK)).replace("COLOURS", colours)


def _named(palette: tuple[str, ...]) -> str:
    return " ".join(f"--line-{i}: {colour};" for i, colour in enumerate(palette))


def frame(title: str, body: Iterable[str], command: str = "jaxprop bench") -> str:
    """Returns a page as the text of one file.

    Only its own style is allowed, so that no text from a document can be executed or fetch anything.

    Args:
      title: of the page, escaped here.
      body: HTML, escaped by who wrote it.
      command: that made the page.

    Example:
      >>> frame("<a>", ["<p>text</p>"]).count("&lt;a&gt;")
      1
    """
    css = style()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)} - {command}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def table_html(table: Table) -> str:
    """A table, everything in it escaped.

    Example:
      >>> "<td>&lt;b&gt;</td>" in table_html(Table("t", ["a"], [["<b>"]]))
      True
    """

    numbers = right(table)

    def cells(tag: str, row: list[str]) -> str:
        marks = ['class="right"' if i in numbers else "" for i in range(len(row))]
        return "".join(
            f"<{f'{tag} {mark}'.strip()}>{html.escape(cell)}</{tag}>" for mark, cell in zip(marks, row, strict=True)
        )

    head = f"<thead><tr>{cells('th', table.headers)}</tr></thead>" if table.headers else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def write_page(path: Path, text: str, option: str) -> None:
    """Writes a page, or another file of text, whole.

    Args:
      path: of the file.
      text: what it holds.
      option: of the command line that names the file, such as `--html`.

    Raises:
      UsageError: it cannot be written.
    """
    try:
        write_whole(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file with {option}") from None
