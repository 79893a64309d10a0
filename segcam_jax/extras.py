"""Optional dependencies, imported where they are needed."""

import importlib
from types import ModuleType

from segcam_jax.types import MissingExtraError


def require(module: str, *, extra: str) -> ModuleType:
    """Imports an optional module.

    Args:
        module: its import name, for example `"skimage.data"`.
        extra: the extra of this package that installs it.

    Raises:
        MissingExtraError: if it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{module} is needed here, but {error.name} is not installed; "
            f'run: pip install "segcam-jax[{extra}]"'
        ) from None
