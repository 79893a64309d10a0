"""Several virtual devices, and no silent promotion of dtypes or ranks.

`SEGCAM_TEST_PLATFORM=cuda,cpu` runs tests on an accelerator, those marked `accelerator` only there.
"""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Tests compile hundreds of small programs and run each once: LLVM's emitter of fusions, and one
# part for each program, compile in a third of the time of MLIR's emitter and many parts. XLA ends a
# process that is given a flag it does not know, and 0.12 has one emitter only. Flags that are given
# replace these.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib") < "0.12" else ""),
)
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ.setdefault("SEGCAM_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = os.environ["SEGCAM_TEST_PLATFORM"]
# Benchmarks run with all optimisations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest
from hypothesis import Phase, settings
from jax.core import Tracer
from jax.experimental.compilation_cache import compilation_cache

# No shrinking: every example compiles a network.
settings.register_profile(
    "few",
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("few")


def pytest_collection_finish():
    """The modules that are loaded stay, and a trace makes many objects that live on.

    To look through all of them as often as Python does by itself takes a tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_collection_modifyitems(items):
    """Skips what needs an accelerator where there is none."""
    if os.environ["SEGCAM_TEST_PLATFORM"] == "cpu":
        for item in items:
            if item.get_closest_marker("accelerator"):
                item.add_marker(pytest.mark.skip(reason="SEGCAM_TEST_PLATFORM is cpu"))


@pytest.fixture(autouse=True, scope="module")
def _strict():
    """Of a module: promotions are part of jit's key, and tests take the programs of fixtures."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def _no_compilation_cache():
    """What a command line in a test has set, the tests after it would fill with their programs."""
    yield
    if jax.config.jax_compilation_cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


@pytest.fixture
def no_tracer_left():
    """Nothing keeps what the test traces with values of a trace of its own."""
    before = _tracers()
    yield
    assert _tracers() <= before


def _tracers() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tracer) for each in gc.get_objects())


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """A process has a limited number of maps of memory (65,530), and every program takes some."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 6_000:
        jax.clear_caches()
