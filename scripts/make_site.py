"""Builds the documentation as a site of static pages, strictly: a warning, or a link that leads nowhere, is an error.

    pip install -e '.[docs]'
    python scripts/make_site.py

The pages are the Markdown files that the tests run and a forge shows. They are copied to `build/site/pages`, where

- links between them, and to other files of the repository, become links of the site;
- the lists of links in `docs/index.md`, and in the `index.md` of a folder, become the navigation;
- `<!-- api: NAME ... -->` becomes the documentation of these names, from their docstrings;
- `<!-- commands -->` becomes the arguments and options of every command.

The site is then in `build/site/html`. Its pages ask no host for anything, which is checked.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import posixpath
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
# Pages that lie outside of docs/, and what they are called on the site.
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "scripts/BENCHMARKS.md": "results/benchmarks.md",
}
# Files that get a page of their own where a page links to them; others are offered as they are.
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".service": "ini", ".timer": "ini", "": "text"}
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([\w./-]+)(#[\w-]+)?\)")
ENTRY = re.compile(r"^- \[([^\]]+)\]\(([\w./-]+\.md)\)", re.MULTILINE)
API = re.compile(r"^<!-- api: (.*?) -->$", re.MULTILINE | re.DOTALL)
COMMANDS = "<!-- commands -->"


def main(quiet: bool = False) -> int:
    """Builds the site; returns the exit code."""
    shutil.rmtree(SITE, ignore_errors=True)
    assemble(SITE / "pages")
    options = ["-W", "--keep-going", "-n", "-E", *(["-q"] if quiet else [])]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-c", ROOT / "docs", *options, SITE / "pages", SITE / "html"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    asked = sorted(requests(SITE / "html"))
    if asked:
        print("these pages ask a host for something:", *asked, sep="\n  ", file=sys.stderr)
    return int(built.returncode != 0 or bool(asked))


# -- the pages ------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Returns the name on the site of every page, by its path in the repository."""
    inside = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return {path: path.removeprefix("docs/") for path in inside} | OUTSIDE


def assemble(folder: Path) -> None:
    """Writes what Sphinx reads into a folder."""
    names = pages()
    todo = list(names)
    while todo:
        path = todo.pop()
        source = ROOT / path
        if path.endswith(".md"):
            text = source.read_text(encoding="utf-8")
            tree = navigation(path, text, names) if source.name == "index.md" else ""
            text = documented(text)
        elif source.is_dir() or source.suffix in LANGUAGES:
            text, tree = shown(path), ""
        else:
            target = folder / names[path]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            continue
        for linked in links(path, text):
            if linked not in names and (ROOT / linked).exists():
                names[linked] = name_of_file(linked)
                todo.append(linked)
        target = folder / names[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(relinked(path, text, names) + tree, encoding="utf-8")


def links(path: str, text: str) -> set[str]:
    """Returns the paths in the repository that a page links to.

    Args:
      path: of the page.
      text: its Markdown.

    Example:
      >>> links("docs/mup.md", "[running](running.md#resuming) and [figures](../scripts/BENCHMARKS.md)") == {
      ...     "docs/running.md", "scripts/BENCHMARKS.md"}
      True
    """
    return {resolved(path, link) for link, _ in LINK.findall(FENCED.sub("", text))}


def relinked(path: str, text: str, names: Mapping[str, str]) -> str:
    """Returns the text of a page with the links that lead to the same place on the site.

    Args:
      path: of the page.
      text: its Markdown.
      names: names on the site by paths. A link to anything else stays, and Sphinx says that it is broken.
    """
    here = posixpath.dirname(names[path])

    def replaced(match: re.Match[str]) -> str:
        target = names.get(resolved(path, match[1]))
        return match[0] if target is None else f"]({posixpath.relpath(target, here or '.')}{match[2] or ''})"

    parts = FENCED.split(text)
    return "".join(part if i % 2 else LINK.sub(replaced, part) for i, part in enumerate(parts))


def resolved(path: str, link: str) -> str:
    """Returns the path in the repository that a link in a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def navigation(path: str, text: str, names: Mapping[str, str]) -> str:
    """Returns the navigation that the lists of links of a page make, with a caption for each heading.

    Args:
      path: of the page.
      text: its Markdown.
      names: names on the site by paths.

    Example:
      >>> text = "# jaxprop\\n\\n## Guides\\n\\n- [Running](running.md): from the command line.\\n"
      >>> print(navigation("docs/index.md", text, {"docs/running.md": "running.md"}).strip())
      ```{toctree}
      :hidden:
      :caption: Guides
      <BLANKLINE>
      Running </running>
      ```
    """
    trees = []
    for heading, entries in lists(path, text):
        listed = "\n".join(f"{title} </{names[page].removesuffix('.md')}>" for title, page in entries)
        caption = f":caption: {heading}\n" if heading else ""
        trees.append(f"\n```{{toctree}}\n:hidden:\n{caption}\n{listed}\n```\n")
    return "".join(trees)


def lists(path: str, text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yields the headings of a page that have a list of links, with the title and the path of each link."""
    for part in re.split(r"^(?=## )", FENCED.sub("", text), flags=re.MULTILINE):
        entries = [(title, resolved(path, link)) for title, link in ENTRY.findall(part)]
        if entries:
            heading = re.match(r"## (.*)", part)
            yield heading[1] if heading else "", entries


def name_of_file(path: str) -> str:
    """Returns the name on the site of a file, or a folder, that is no page."""
    if (ROOT / path).is_dir():
        return f"source/{path}/index.md"
    return f"source/{path}.md" if Path(path).suffix in LANGUAGES else f"source/{path}"


def shown(path: str) -> str:
    """Returns a page that shows a file, or lists a folder."""
    source = ROOT / path
    head = f"---\norphan: true\n---\n\n# `{path}`\n\n"
    if source.is_dir():
        inside = sorted(entry.name for entry in source.iterdir() if not entry.name.startswith(("_", ".")))
        return head + "".join(f"- [{name}]({source.name}/{name})\n" for name in inside)
    return f"{head}````{LANGUAGES[source.suffix]}\n{source.read_text(encoding='utf-8')}````\n"


# -- what is written of the code ------------------------------------------------------------------


def documented(text: str) -> str:
    """Returns the text of a page with the documentation that its comments ask for."""
    text = API.sub(lambda match: "```{eval-rst}\n" + "\n".join(map(directive, match[1].split())) + "```", text)
    return text.replace(COMMANDS, commands()) if COMMANDS in text else text


def directive(name: str) -> str:
    """Returns the directive that documents a public name.

    Example:
      >>> print(directive("jaxprop.fit"))
      .. autofunction:: jaxprop.fit
      <BLANKLINE>
    """
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(value):
        return f".. autoclass:: {name}\n   :members:\n"
    return f".. auto{'function' if callable(value) else 'data'}:: {name}\n"


def commands() -> str:
    """Returns what every command does, its arguments and its options, as Markdown."""
    from jaxprop.cli.app import BENCH, COMMANDS

    named = COMMANDS | {f"bench {name}": command for name, command in BENCH.items()}
    return "\n".join(described(f"jaxprop {name}", command) for name, command in named.items())


def described(words: str, command: Callable[..., int]) -> str:
    """Returns the part of one command.

    Args:
      words: the command as it is typed, such as `jaxprop bench device`.
      command: the function, whose signature has what `--help` prints.
    """
    usage, rows = [], []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        annotated, info = parameter.annotation.__args__[0], parameter.annotation.__metadata__[0]
        kinds = [kind.__name__ for kind in typing.get_args(annotated) or (annotated,) if kind is not type(None)]
        value = info.metavar or ("" if "bool" in kinds else name.upper())
        if isinstance(info, typer.models.ArgumentInfo):
            several = "..." if "list" in kinds else ""
            usage.append(f"{value}{several}" if parameter.default is parameter.empty else f"[{value}]{several}")
            written = f"`{value}`"
        else:
            forms = (info.default, *info.param_decls)  # where typer keeps the names of an option
            written = ", ".join(f"`{f'{form} {value}'.strip()}`" for form in forms)
        plain = parameter.default is parameter.empty or parameter.default in (None, False)
        rows.append(f"| {cell(written)} | {'' if plain else f'`{parameter.default}`'} | {cell(info.help or '')} |")
    table = "\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows])
    line = " ".join([words, *usage, "[OPTIONS]"])
    return f"## {words}\n\n```text\n{line}\n```\n\n{inspect.cleandoc(command.__doc__ or '')}\n\n{table}\n"


def cell(text: str) -> str:
    """Returns text that may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


# -- what the site asks for -----------------------------------------------------------------------


class Asking(HTMLParser):
    """Collects what a page makes a browser load from another host; links for the reader are none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            loads = key in ("src", "srcset", "poster", "data") or (key == "href" and tag not in ("a", "area"))
            if loads and re.search(r"(^|[\s,])(https?:)?//", value or ""):
                self.found.append(value or "")
            elif key == "style":
                self.found += external(value or "")


def external(styles: str) -> list[str]:
    """Returns what a style sheet loads from another host.

    Example:
      >>> external("a { background: url(https://x.org/a.png) } b { background: url(b.png) }")
      ['https://x.org/a.png']
    """
    return re.findall(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\s\"')]+)", styles)


def requests(folder: Path) -> Iterator[str]:
    """Yields each page or style sheet below a folder that loads something from another host, and what."""
    for path in sorted(folder.rglob("*.html")):
        parser = Asking()
        text = path.read_text(encoding="utf-8")
        parser.feed(text)
        styles = " ".join(re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL))
        yield from (f"{path.relative_to(folder)}: {address}" for address in [*parser.found, *external(styles)])
    for path in sorted(folder.rglob("*.css")):
        yield from (f"{path.relative_to(folder)}: {address}" for address in external(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    sys.exit(main(parser.parse_args().quiet))
