"""The pages of the site hold together, which the build of it (minutes) would tell otherwise."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

import segcam_jax

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(path for path in DOCS.glob("**/*.md") if "_build" not in path.parts)
CELL = re.compile(r"```\{code-cell\} python\n((?::[^\n]*\n)*)(.*?)```", flags=re.DOTALL)
NOTEBOOKS = [page for page in PAGES if CELL.search(page.read_text())]
LISTED = re.compile(r"\.\. auto(function|class|data|exception):: (segcam_jax[\w.]*)")
# Rooms whose public names are those of their `__init__`, or that they define.
FACES = ("", ".files", ".methods", ".metrics", ".metrics.segmentation", ".models", ".runs")
FACES += (".targets", ".viz", ".volumes")


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def listed_below(page: Path) -> set[Path]:
    """The pages of the tables of contents of a page."""
    found = set()
    for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for entry in block.split("\n"):
            if entry and not entry.startswith(":"):
                found |= set(page.parent.glob(f"{entry}.md"))
    return {path.resolve() for path in found}


def test_every_page_is_in_a_table_of_contents():
    reached, waiting = set(), {DOCS / "index.md"}
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting |= listed_below(page) - reached
    assert {name_of(page) for page in PAGES} == {name_of(page) for page in reached}


def anchors(page: Path) -> set[str]:
    """What its headings are called in links, as GitHub and MyST call them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_sections_lead_to_one(page):
    links = re.findall(r"\]\(([^)\s#]*)#([^)\s]+)\)", page.read_text())
    within = [(file, section) for file, section in links if "://" not in file]
    missing = [
        f"{file}#{section}"
        for file, section in within
        if section not in anchors(page.parent / file if file else page)
    ]
    assert not missing


def resolved(name: str):
    """What a dotted name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def public(face: str) -> dict[str, object]:
    """The names that a module of the package offers: what it defines or names again.

    Constants of a room's `__init__` are among them, and type aliases of a module are not.
    """
    module = importlib.import_module(f"segcam_jax{face}")
    is_room = Path(inspect.getfile(module)).name == "__init__.py"
    names = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            names |= {each.name for each in node.names if each.asname == each.name}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif is_room and isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {name: thing for name, thing in found.items() if not inspect.ismodule(thing)}


def test_every_public_name_is_in_the_reference_once():
    entries = [
        name
        for page in sorted((DOCS / "reference").glob("*.md"))
        for _, name in LISTED.findall(page.read_text())
    ]
    documented = [id(resolved(name)) for name in entries]
    twice = [name for name in entries if documented.count(id(resolved(name))) > 1]
    assert not twice
    missing = {
        f"segcam_jax{face}.{name}"
        for face in FACES
        for name, thing in public(face).items()
        if id(thing) not in documented
    }
    assert not missing


@pytest.mark.parametrize("page", NOTEBOOKS, ids=name_of)
def test_cells_compile(page):
    header = yaml.safe_load(page.read_text().split("---\n")[1])
    assert header["kernelspec"] == {"name": "python3"}
    assert ("needs" in header) == ("installs" in header)  # A missing package names its line.
    for _, code in CELL.findall(page.read_text()):
        compile(code, name_of(page), "exec")


def test_the_version_is_one():
    """Of the package, of what is cited, and of the newest changes."""
    root = DOCS.parent
    cited = yaml.safe_load((root / "CITATION.cff").read_text())["version"]
    newest = re.findall(r"^## (\S+)$", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0]
    assert segcam_jax.__version__ == cited == newest
