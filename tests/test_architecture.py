"""The rooms and floors of docs/architecture.md: a room imports only from floors below it."""

import ast
import functools
from pathlib import Path

import pytest

import segcam_jax

ROOT = Path(segcam_jax.__file__).parent
FLOORS = {
    "_print": 0,
    "types": 0,
    "_files": 1,
    "files": 1,
    "_process": 0,
    "options": 1,
    "extras": 1,
    "faults": 1,
    "schema": 1,
    "_jaxpr": 1,
    "taps": 1,
    "components": 1,
    "outputs": 1,
    "targets": 1,
    "masks": 1,
    "heatmap": 1,
    "weights": 1,
    "data": 1,
    "viz": 1,
    "engine": 2,
    "methods": 3,
    "metrics": 3,
    "adapters": 3,
    "models": 4,
    "networks": 5,
    "volumes": 6,
    "runs": 7,
    "api": 9,
    "reports": 8,
    "cli": 10,
    "__main__": 11,
}
# Within a floor, which other rooms a room may use.
NEIGHBOURS = {
    "types": {"_print"},
    "files": {"_files"},
    "taps": {"_jaxpr", "faults", "masks", "outputs"},
    "targets": {"components", "outputs"},
    "masks": set(),
    "data": {"_files", "extras"},
    "viz": {"_files", "extras"},
    "weights": {"_files", "extras"},
}
# What is run once and freed at once, where keeping it would push out a program that is used again.
JIT_ONCE = {
    "_jaxpr/signatures.py": "the settings of JAX are read off it, and nothing is compiled",
    "engine/measure.py": "a few evaluations are timed",
    "engine/planning.py": "the ablations that change something are found",
}
FLAX_ROOMS = {"models", "adapters"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


@functools.cache
def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# Rooms whose modules are their face; those of others are what their `__init__` names.
OPEN_ROOMS = {"data", "networks", "reports"}
BESIDE = sorted(
    path for folder in ("train", "benchmarks") for path in (ROOT.parent / folder).rglob("*.py")
)


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} <= FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room(path)
    for name in imports(path):
        if not name.startswith("segcam_jax."):
            continue
        there = name.split(".")[1]
        if there == "__version__" or there == here:
            continue
        lower = FLOORS[there] < FLOORS[here]
        assert lower or there in NEIGHBOURS.get(here, set()), f"{here} imports {there}"
        assert {here, there} != {"methods", "models"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_and_framework_imports_stay_in_their_rooms(path):
    for name in imports(path):
        assert not name.startswith("jax._src"), f"{path}: {name}"
        if name.startswith("jax.extend"):
            assert room(path) == "_jaxpr", f"{path}: {name}"
        if name.split(".")[0] == "flax":
            assert room(path) in FLAX_ROOMS, f"{path}: {name}"


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_what_stands_beside_the_package_uses_its_faces(path):
    """A room's `__init__`, a room of one file, a network's folder: nothing private or inside."""
    assert "sys.path" not in path.read_text()
    for name in imports(path):
        if not name.startswith("segcam_jax."):
            continue
        *module, last = name.split(".")
        assert not any(part.startswith("_") for part in (*module, last)), name
        inside = Path(*module[1:], last)
        if is_module(inside) and len(inside.parts) > 1:
            # A module given by its room is one if the room says so.
            face = ROOT / inside.parent / "__init__.py"
            assert inside.parts[0] in OPEN_ROOMS or last in imported_names(face), name
        assert is_face(Path(*module[1:])), name


def is_face(module: Path) -> bool:
    """Whether a module of the package, relative to it, may be imported from."""
    is_folder = (ROOT / module / "__init__.py").is_file()
    return is_folder or len(module.parts) == 1 or module.parts[0] in OPEN_ROOMS


def is_module(module: Path) -> bool:
    return (ROOT / module).with_suffix(".py").is_file() or (ROOT / module).is_dir()


def imported_names(path: Path) -> set[str]:
    return {name.rsplit(".", 1)[1] for name in imports(path) if "." in name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 400


def test_jaxprs_are_made_in_one_room():
    for path in FILES:
        assert room(path) == "_jaxpr" or "make_jaxpr" not in path.read_text(), path


def test_jaxprs_are_read_in_few_rooms():
    users = {"_jaxpr", "taps", "engine", "adapters"}
    for path in FILES:
        reads = {name for name in imports(path) if name.startswith("segcam_jax._jaxpr")}
        assert room(path) in users or not reads, f"{path}: {reads}"


def test_one_file_jits():
    """Others ask `compiled` or `compiled_function`: programs are bounded in one place."""
    jitting = set()
    for path in FILES:
        nodes = ast.walk(ast.parse(path.read_text())) if "jit" in path.read_text() else ()
        named = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        if "jax.jit" in named | imports(path):
            jitting.add(path.relative_to(ROOT).as_posix())
    assert jitting == {"engine/programs.py", *JIT_ONCE}


def test_one_file_puts_files_in_place():
    """All others ask it: a file is written whole, or an earlier one survives."""
    for path in FILES:
        assert path == ROOT / "_files.py" or "os.replace" not in path.read_text(), path
    for folder in ("train", "benchmarks"):
        for path in (ROOT.parent / folder).rglob("*.py"):
            assert "os.replace" not in path.read_text(), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_methods_are_named_in_their_room_alone(path):
    """What others ask of a method stands on its decorator; commands and demos have defaults."""
    if room(path) == "methods":
        return
    tree = ast.parse(path.read_text())
    said = {node for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    said = {node for node in said if node.value in segcam_jax.methods.METHODS}
    scopes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef))
    defaults = [
        statement
        for scope in scopes
        for statement in scope.body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and room(path) == "cli"
    ]
    # Profiles have names of their own, some of which are those of the methods they stem from.
    profiles = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Profile"
    ]
    allowed = {node for each in (*defaults, *profiles) for node in ast.walk(each)}
    assert not {f"line {node.lineno}: {node.value!r}" for node in said - allowed}
