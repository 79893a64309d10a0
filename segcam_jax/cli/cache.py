"""Compiled programs kept between runs, so that a second run starts at once."""

import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """Where compiled programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return root / "segcam_jax" / "compiled"


def enable() -> None:
    """Turns JAX's persistent compilation cache on; a folder that cannot be written is let be.

    A cache that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) stays.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    try:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder.
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
