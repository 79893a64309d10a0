"""A process of the command line: signals at any moment, streams and disks that take nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import segcam_jax
from segcam_jax._files import is_temporary
from tests.hard_inputs import world
from tests.hard_inputs.rows import files

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
LINE = ("explain", "image.png", "--weights", "net.safetensors", "--region", "all")


@pytest.fixture(autouse=True, scope="module")
def _heeds_ctrl_c():
    """A process in the background may ignore Ctrl-C, and so does what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("process")
    world.right(place)
    return place


def start(folder, *line, home=None, shell="", **options):
    """A process of the command line in a folder; what a shell does before it begins."""
    root = str(Path(segcam_jax.__file__).resolve().parents[1])
    environment = {name: each for name, each in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": root, "XDG_CACHE_HOME": str(folder / "cache")}
    if home is not None:
        environment |= {
            "HOME": home,
            "XDG_CACHE_HOME": "",
            "XDG_CONFIG_HOME": "",
            "MPLCONFIGDIR": "",
        }
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    module = () if line[0].startswith("train.") else ("segcam_jax",)
    words = [sys.executable, "-m", *module, *map(str, line)]
    words = ["sh", "-c", f'{shell}exec "$@"', "sh", *words] if shell else words
    return subprocess.Popen(words, cwd=folder, env=environment, text=True, **given)


def ended(child):
    """The exit code as a shell has it, and what was said on stderr."""
    said = child.communicate(timeout=120)[1]
    assert "Traceback" not in said, said
    code = child.returncode
    return 128 - code if code < 0 else code, said


def stopped(folder, number, after, *line):
    """What comes of a process that gets a signal some seconds after it began to import."""
    child = start(folder, *line)
    maps = Path(f"/proc/{child.pid}/maps")
    while child.poll() is None and "jaxlib" not in maps.read_text():
        time.sleep(0.01)
    time.sleep(after)
    child.send_signal(number)
    return ended(child)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_signals_while_modules_are_imported(folder, number):
    code, said = stopped(folder, number, 0, *LINE, "--out", "stopped")
    assert (code, said) == (SIGNALS[number], "")
    assert not (folder / "stopped").exists()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda each: each.name)
def test_signals_while_a_file_is_written(folder, number):
    """The process says that it ends, ends by itself and leaves nothing behind."""
    (folder / "busy.py").write_text(
        "import time\n"
        "from segcam_jax.files import whole_file\n\n\n"
        "def make():\n"
        '    with whole_file("whole.txt") as half:\n'
        '        half.write_text("half")\n'
        "        time.sleep(60)\n"
    )
    child = start(folder, "layers", "busy.py:make")
    while child.poll() is None and not list(folder.glob(".*.whole.txt")):
        time.sleep(0.01)
    child.send_signal(number)
    code, said = ended(child)
    assert child.returncode == code == SIGNALS[number]
    assert said.startswith("segcam: interrupted; all files are whole")
    assert len(said.splitlines()) == 1
    assert not list(folder.glob("*whole.txt"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_signals_at_any_moment(folder, tmp_path, seed):
    chance = random.Random(seed)
    number, after = chance.choice(list(SIGNALS)), chance.uniform(0, 12)
    code, said = stopped(folder, number, after, *LINE, "--out", tmp_path / "out")
    assert code in (0, SIGNALS[number]), (after, code, said)
    assert not [name for name in files(tmp_path) if is_temporary(os.path.basename(name))]
    code, said = ended(start(folder, *LINE, "--out", tmp_path / "out"))
    assert code == 0, said


def test_a_closed_stdout_and_a_full_disk(folder):
    closed = start(folder, "methods", shell="exec >&-; ")
    with open("/dev/full", "w") as full:
        none_left = start(folder, "methods", stdout=full)
    for child, says in ((closed, "stdout is closed"), (none_left, "No space left")):
        code, said = ended(child)
        assert code == 2, said
        assert said.startswith("segcam: error: ")
        assert says in said
        assert len(said.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        LINE,
        ("sweep", *LINE[1:]),
        ("gallery", *LINE[1:]),
        ("embed", "photos", "image.png", "other.png", "--weights", "net.safetensors"),
        ("export", "run.zarr"),
        ("train.texture_mnist", "--steps", "1", "--evaluate-samples", "1"),
        ("demo",),
        ("convert", "net.safetensors", "--model", "monai-unet"),
        ("instances", "scan.nii", "--weights", "vol.safetensors", "--roi", "8"),
        ("context", "scan.nii", "--weights", "vol.safetensors", "--roi", "8", "--steps", "2"),
    ],
    ids=lambda line: line[0],
)
def test_no_file_may_hold_a_letter(folder, tmp_path, line):
    code, said = ended(start(folder, *line, "--out", tmp_path / "new", shell="ulimit -f 0; "))
    assert code == 2, said
    assert len([each for each in said.splitlines() if "error: " in each]) == 1


@pytest.mark.slow
def test_a_home_that_cannot_be_written(folder, tmp_path):
    code, said = ended(start(folder, *LINE, "--out", tmp_path / "new", home="/proc/none"))
    assert code == 0, said
    assert all(line.startswith("segcam: ") for line in said.splitlines())
