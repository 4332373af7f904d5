"""The documentation site: `make docs` builds it into docs/_build/html, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # noqa: E402

from vit_hybrid import __version__  # noqa: E402

project = "vit-hybrid"
author = "The vit-hybrid maintainers"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.intersphinx"]
# Pages link to each other's headings, and to files of the repository by their place in it.
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "inventories"]
root_doc = "index"

# Committed, so that a build asks nobody.
intersphinx_mapping = {"python": ("https://docs.python.org/3.11", "inventories/python.inv")}

html_theme = "furo"
html_title = "vit-hybrid"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
pygments_style = "default"
pygments_dark_style = "monokai"


def made_reachable(app, name, template, context, doctree):
    """What the theme leaves out for people who use a keyboard or have pages read to them."""
    # Headings without a level, and blocks that scroll but cannot be reached without a mouse.
    for part, lacking, complete in (
        ("furo_navigation_tree", 'role="heading"', 'role="heading" aria-level="2"'),
        ("body", "<pre>", '<pre tabindex="0">'),
    ):
        if part in context:
            context[part] = context[part].replace(lacking, complete)


def setup(app):
    """Fills what is generated into the pages that have a place for it; mends their HTML behind the theme."""
    app.connect("source-read", reference.fill)
    app.connect("html-page-context", made_reachable, priority=900)
