"""How Sphinx builds the site. `scripts/make_site.py` puts the pages together and calls it; see there."""

import re

from jaxprop import __version__

project = "jaxprop"
author = "The jaxprop authors"
copyright = "the jaxprop authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
html_theme = "furo"
html_title = "jaxprop"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False  # they are assembled, and the checkout has the originals
html_show_search_summary = False  # it would fetch pages, which a browser refuses for files
html_theme_options = {"top_of_page_buttons": []}
highlight_language = "text"  # equations; examples are known by their prompts
pygments_style = "friendly"
pygments_dark_style = "github-dark"

myst_heading_anchors = 4  # as forges make them, so that a link leads to the same heading on both
myst_enable_extensions = ["html_image"]

default_role = "code"  # docstrings write `name` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # Args say what each is, with shapes and units
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = True


def skip_fields(app, what, name, obj, skip, options):
    """Leaves out the fields of a NamedTuple, which its docstring has under Args, and what tuples have."""
    return True if type(obj).__name__ == "_tuplegetter" or name in ("count", "index") else skip


def as_restructured(app, what, name, obj, options, lines):
    """Makes of a docstring what Sphinx reads: equations stay as they are, and a bar is a bar."""
    made, example, equation, described = [], False, False, True
    for line in lines:
        indented = line.startswith("    ") and described and not example
        if indented and not equation:
            made += ["::", ""]
        if line.strip():
            equation = indented
            described = described and not line.endswith(":")  # until Args and the like, what is indented is an equation
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        made.append(line if example or equation else escaped(line))
    lines[:] = made


def escaped(line):
    """Returns a line in which a bar is a bar, and code may be followed by a letter."""
    prose = re.split(r"(`+[^`]+`+)", line)
    for i in range(0, len(prose), 2):
        prose[i] = ("\\ " if i and re.match(r"\w", prose[i]) else "") + prose[i].replace("|", "\\|")
    return "".join(prose)


def setup(app):
    """Connects the functions above."""
    app.connect("autodoc-process-docstring", as_restructured, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
