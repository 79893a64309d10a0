"""Factories in users' own files: `module.path:make` or `folder/file.py:make`, imported and called.

The current folder is on the path, and for a file the folder that it would be imported from. Every
fault is one line: a module that is not found or does not import, a name that it lacks, a factory
that needs arguments or fails, a result that is not a model.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from segcam_jax import _files, faults
from segcam_jax.adapters import FORMS, adapted, is_model
from segcam_jax.adapters.detect import is_torch
from segcam_jax.adapters.torch_checkpoints import load_checkpoint
from segcam_jax.types import InputError, nearest_first

_TOLD = 6
_INSTALLED = {"site-packages", "dist-packages"}


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """What a factory returned.

    Attributes:
        model: one of `adapters.FORMS`.
        source: digest of the user's modules that it is made of.
    """

    words: str
    model: Any
    file: Path
    source: str

    @property
    def name(self) -> str:
        """The name of the model's class or function."""
        one = self.model[0] if isinstance(self.model, tuple) else self.model
        name = getattr(one, "__name__", type(one).__name__)
        return "a function" if name == "<lambda>" else name

    @functools.cached_property
    def batched(self) -> tuple[Callable, Any]:
        """The model, given a batch of one."""
        return adapted(self.model, batch=True)

    @functools.cached_property
    def single(self) -> tuple[Callable, Any]:
        """The model, given one example; what there is to warn of, `batched` has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return adapted(self.model, batch=False)


def is_factory(words: str) -> bool:
    """Whether it names a factory: `module.path:make`, `file.py:make`, or a file in want of one."""
    left, colon, _ = words.rpartition(":")
    if Path(words).suffix == ".py":
        return True
    return bool(colon and left) and left != "random" and not Path(words).exists()


def make(words: str) -> Made:
    """Imports a factory and calls it."""
    left, colon, name = words.rpartition(":")
    if colon and not name:
        raise InputError(f"{words!r} names no function; give module.path:NAME or file.py:NAME")
    place = left if colon else words
    by_file = place.endswith(".py") or os.sep in place
    module = _module_of_file(Path(place), words) if by_file else _module(place, words)
    if not colon:
        names = ", ".join(_candidates(module)[:_TOLD])
        there = f"; it has {names}" if names else ""
        raise InputError(
            f"{words!r} names a file; add :NAME of the function that makes the model{there}"
        )
    model = _called(_attribute(module, name, left), words)
    if not is_model(model):
        raise InputError(f"{words} returned {_described(model)}; expected {FORMS}")
    file = Path(getattr(module, "__file__", None) or left)
    return Made(words, model, file, _source_digest(file))


def load(made: Made, checkpoint: Path | None) -> str:
    """Loads a checkpoint into a PyTorch module; says what its names lost, or that there is none.

    Raises:
        InputError: if the model is of another library, or the checkpoint of another network.
    """
    if checkpoint is None:
        if not is_torch(made.model):
            return ""
        return f"; it has the weights that {made.words} gave it (--checkpoint loads others)"
    if not is_torch(made.model):
        raise InputError(
            f"--checkpoint is for a factory of a torch.nn.Module; {made.words} makes {made.name}, "
            "and must load its weights itself"
        )
    prefix = load_checkpoint(made.model, checkpoint)
    return f"; names in {checkpoint.name} begin with {prefix!r}" if prefix else ""


def _on_path(folder: Path) -> None:
    """Puts a folder first where modules are looked for, also those imported while a model runs."""
    place = str(folder)
    if sys.path[:1] != [place]:
        sys.path.insert(0, place)
    importlib.invalidate_caches()


@contextlib.contextmanager
def _importing(words: str) -> Iterator[None]:
    """Says in one line why a module does not import."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{words!r} does not import: {faults.words_of(error)}") from None


def _module(name: str, words: str) -> ModuleType:
    _on_path(Path.cwd())
    with _importing(words):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            missing = error.name
    near = nearest_first(name, sorted(path.stem for path in Path.cwd().glob("*.py")))[:_TOLD]
    modules = f"; modules there are {', '.join(near)}" if near else ""
    raise InputError(
        f"{words!r}: there is no module {missing!r} in {str(Path.cwd())!r} or installed{modules}"
    )


def _module_of_file(file: Path, words: str) -> ModuleType:
    """The module of a source file, under the name that it has in its package, if it is in one."""
    if not file.is_file():
        near = nearest_first(file.stem, [path.stem for path in file.parent.glob("*.py")])[:_TOLD]
        others = f"; there are {', '.join(f'{each}.py' for each in near)}" if near else ""
        raise InputError(f"{words!r}: file {str(file)!r} does not exist{others}")
    file = file.resolve()
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _on_path(Path.cwd())
    _on_path(folder)
    name = ".".join(parts)
    with _importing(words):
        known = sys.modules.get(name) or importlib.import_module(name)
        if Path(getattr(known, "__file__", None) or "").resolve() == file:
            return known
        # Another module has that name.
        spec: Any = importlib.util.spec_from_file_location(f"_segcam_own_{file.stem}", file)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def _attribute(module: ModuleType, name: str, left: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(nearest_first(part, _candidates(found))[:_TOLD])
            there = f"; it has {near}" if near else " and defines nothing that makes a model"
            raise InputError(f"{left!r} has no {part!r}{there}")
        found = getattr(found, part)
    return found


def _candidates(module: Any) -> list[str]:
    """Public names that could make a model: functions and models that the module defines itself.

    Functions that need no arguments, if there are any; classes only if there are no functions.
    """
    own = getattr(module, "__name__", None)
    found = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", own) == own
    }
    made = {name: each for name, each in found.items() if _is_function(each) or is_model(each)}
    made = made or {name: each for name, each in found.items() if inspect.isclass(each)}
    ready = [name for name, each in made.items() if is_model(each) or not _needed(each)]
    return ready or list(made)


def _is_function(value: Any) -> bool:
    """Whether it is a function, also one that is wrapped, as by `functools.cache` or `jax.jit`."""
    return inspect.isfunction(value) or (callable(value) and hasattr(value, "__wrapped__"))


def _called(factory: Any, words: str) -> Any:
    """What a factory returns; a model that stands there itself is taken."""
    if is_model(factory) or not callable(factory) or _is_linen(factory):
        return factory
    missing = _needed(factory)
    if missing:
        raise InputError(
            f"{words} needs the arguments {', '.join(missing)}, but segcam calls it without any; "
            "name a function that needs none and returns the model"
        )
    try:
        return factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{words} fails: {faults.words_of(error)}") from None


def _needed(factory: Callable) -> list[str]:
    """The parameters that have no default."""
    # A class's metaclass may hide what its objects are made from.
    function: Any = factory.__init__ if inspect.isclass(factory) else factory
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # Some builtins have no signature.
        return []
    parameters = parameters[1:] if inspect.isclass(factory) else parameters
    packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in packed]


def _is_linen(value: Any) -> bool:
    module = getattr(sys.modules.get("flax.linen"), "Module", None)
    return module is not None and isinstance(value, module)


def _described(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(_described(each) for each in value) or 'nothing'}"
    if inspect.isclass(value):
        return f"the class {value.__name__}, not an object of it"
    if _is_linen(value):
        return f"a linen.Module ({type(value).__name__}) without its variables"
    if inspect.isroutine(value):
        return f"the function {value.__name__} without its params"
    return f"a value of type {type(value).__name__}"


def _source_digest(file: Path) -> str:
    """A digest of all imported modules that lie in the factory's folder or the current one.

    Libraries are left out: their versions are written down elsewhere.
    """
    roots = (f"{file.resolve().parent}{os.sep}", f"{Path.cwd()}{os.sep}")
    sources = {str(getattr(each, "__file__", None) or "") for each in list(sys.modules.values())}
    mine = [
        Path(source)
        for source in sources
        if source.endswith(".py")
        and source.startswith(roots)
        and not _INSTALLED & set(Path(source).parts)
        and faults.is_users(source)
    ]
    digests = {_files.sha256_of(path) for path in mine if path.is_file()}
    return _files.digest_of("".join(sorted(digests)))
