"""How Sphinx builds these pages: `sphinx-build -W docs build/docs`."""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import probegen_jax

project = "probegen_jax"
author = "The probegen_jax authors"
copyright = "The probegen_jax authors"
release = probegen_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "probegen_jax"
html_static_path: list[str] = []

# Notebooks and code blocks run in the tests, not here.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # array shapes as strings are not types that Sphinx could look up
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = False


def _markdown(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings quote code as `code`; reStructuredText wants it doubled, and stars escaped."""
    for n, line in enumerate(lines):
        line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``\\ ", line)
        lines[n] = re.sub(r"(?<=[ (])\*(?=[\w.]+\))", r"\\*", line)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _markdown, priority=400)  # before napoleon
