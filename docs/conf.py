"""The documentation site: `sphinx-build -W -b html docs docs/_build/html` (extra `docs`).

Pages are MyST Markdown. Those with a kernel in their header are notebooks: they run when the site
is built, and again when they change (`docs/_build/.jupyter_cache`); one that fails fails the build.
`jupytext --to ipynb docs/tutorials/first.md` makes a notebook of a page.

Inventories of other projects are read with `SEGCAM_DOCS_INVENTORIES=1`: without it the build needs
no network, and names of JAX, Flax and NumPy are no links.
"""

import contextlib
import importlib.util
import io
import os
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

# Before JAX is imported, here and in the kernels, which inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent / "_build" / ".jax_cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # Pages compile much and run it once.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["COLUMNS"] = "98"  # of help texts

import segcam_jax
from segcam_jax.cli import commands

HERE = Path(__file__).parent

project = "segcam_jax"
author = "The segcam_jax authors"
version = release = segcam_jax.__version__
copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
intersphinx_mapping = {
    "flax": ("https://flax.readthedocs.io/en/stable", None),
    "jax": ("https://docs.jax.dev/en/latest", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "python": ("https://docs.python.org/3", None),
}
if os.environ.get("SEGCAM_DOCS_INVENTORIES"):
    extensions.append("sphinx.ext.intersphinx")

html_theme = "furo"
html_title = f"segcam_jax {version}"
highlight_language = "none"
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / ".jupyter_cache")
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_number_source_lines = False


def _header(page: Path) -> dict[str, Any]:
    """What stands between the dashes above a page."""
    found = re.match(r"---\n(.*?)\n---\n", page.read_text(), flags=re.DOTALL)
    return yaml.safe_load(found[1]) if found else {}


def _not_run() -> dict[str, str]:
    """The notebooks whose packages are missing here, and what installs them.

    A notebook says in its header what it `needs`, a module, and the line that `installs` it.
    """
    missing = {}
    for page in sorted(HERE.glob("**/*.md")):
        header = _header(page)
        needed = header.get("needs")
        if needed and importlib.util.find_spec(needed) is None:
            missing[page.relative_to(HERE).as_posix()] = header["installs"]
    return missing


NOT_RUN = _not_run()
nb_execution_excludepatterns = list(NOT_RUN)


def _read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Says on a notebook that is not run what it needs."""
    installs = NOT_RUN.get(f"{name}.md")
    if installs:
        logging.getLogger(__name__).info("%s.md is not run; it needs: %s", name, installs)
        said = f"```{{note}}\nThis page was built without being run. It needs: `{installs}`\n```\n"
        source[0] = re.sub(r"(?m)^(# .*\n)", rf"\1\n{said}", source[0], count=1)


def _read_docstring(app, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring: code between backticks, and formulas as they are."""
    if what == "data":  # A constant has the words of its type.
        lines[:] = []
        return
    text = re.sub(r"`+([^`]+)`+(\w?)", _code, "\n".join(lines))
    written: list[str] = []
    formula = False
    for line in text.split("\n"):
        indented = line.startswith("    ")
        if indented and not formula and written and not written[-1]:
            above = next((row for row in reversed(written) if row), "")
            formula = not re.fullmatch(r" *[A-Z]\w+:|  +.*", above)
            written += ["::", ""] if formula else []
        elif line and not indented:
            formula = False
        written.append(line if formula else _escaped(line))
    lines[:] = written


def _code(span: re.Match[str]) -> str:
    """Code between backticks, in one line; a letter behind it, of a plural, is apart."""
    return f"``{' '.join(span[1].split())}``" + (f"\\ {span[2]}" if span[2] else "")


def _escaped(line: str) -> str:
    """A line outside of code, in which no character of a formula is markup."""
    pieces = re.split(r"(``.*?``)", line)
    pieces[::2] = [re.sub(r"([*|]|(?<=\w)_\b)", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


class Commands(SphinxDirective):
    """A section for each command of `segcam`, with its help."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        return [self._section(name, command) for name, command in commands.COMMANDS.items()]

    def _section(self, name: str, command: commands.Command) -> nodes.section:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            commands.parse(command, name, ["--help"])
        section = nodes.section(ids=[f"segcam-{name}"])
        text = said.getvalue().strip()
        section += nodes.title(text=f"segcam {name}")
        section += nodes.literal_block(text, text, language="none")
        self.state.document.note_explicit_target(section)
        return section


def setup(app: Sphinx) -> None:
    """Connects what stands above."""
    app.add_directive("segcam-commands", Commands)
    app.connect("source-read", _read_page)
    # Before napoleon, which makes field lists of the sections.
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)
