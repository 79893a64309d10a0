"""Names that files really have: of 200 letters, in letters of any script, with `$`; any backend."""

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from segcam_jax import _files, cli, viz
from segcam_jax.cli import console
from segcam_jax.types import InputError, shortened
from segcam_jax.volumes import scan_inputs
from tests.support import own_networks
from tests.support.explained import rows_of, run_of

LONG = "patient-" + 190 * "x" + "-7"
NAMES = ("脳のスキャン", LONG, r"cost$5$_{1}", "x" * 250)


@pytest.fixture(autouse=True)
def _apart(monkeypatch):
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_long_name_is_shortened_in_the_middle():
    assert shortened("scan") == "scan"
    assert len(shortened(LONG)) == 40
    assert shortened(LONG).startswith("patient-xxx")
    assert shortened(LONG).endswith("x-7")


def test_a_long_name_of_a_file_ends_in_a_digest():
    assert _files.file_name("scan 1") == "scan 1"
    for name in (LONG, "脳" * 80):
        short = _files.file_name(name)
        assert len(os.fsencode(short)) <= 100
        assert short[:20] == name[:20]
        assert short != _files.file_name(f"{name}1")
    assert len({_files.file_name(name) for name in (LONG, LONG[:-1] + "8")}) == 2
    assert len(os.fsencode(scan_inputs.slug(LONG))) <= 100
    assert _files.names_of([Path(f"{NAMES[0]}.png")]) == [NAMES[0]]


def test_names_of_files_are_numbered_where_they_would_be_the_same():
    assert _files.unique_names(["a", "A", "b", "a"], taken=["B"]) == ["a", "A-2", "b-2", "a-3"]
    assert _files.slug("layer1/conv 2", "layer") == "layer1-conv-2"
    assert _files.slug("/../", "layer") == "layer"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    _files.write_bytes(path, b"one")
    before = os.umask(0o027)
    try:
        with contextlib.suppress(ZeroDivisionError), _files.whole_file(path) as temporary:
            temporary.write_bytes(b"half of")
            raise ZeroDivisionError
        assert path.read_bytes() == b"one"
        _files.write_bytes(path, b"two")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]
    with pytest.raises(InputError, match="cannot be written: "):
        _files.write_bytes(path / "below", b"")
    with pytest.raises(OSError, match="cannot be written: "):
        _files.check_writable(path / "below")
    with pytest.raises(ValueError, match="JSON"):
        _files.write_json(tmp_path / "nan.json", [float("nan")])
    assert not (tmp_path / "nan.json").exists()


def test_a_long_name_leaves_the_other_columns_their_place(capsys):
    """At 9a93cb7 the first column took the whole table, and the others a letter or none."""
    rows = [(LONG, "grad_cam", "encoder4", "0.1234"), ("b", "hires_cam", "bottleneck", "5.678")]
    console.table(None, ("image", "method", "tap", "score"), rows)
    said = capsys.readouterr().out
    for word in ("grad_cam", "hires_cam", "encoder4", "bottleneck", "0.1234", "5.678", "score"):
        assert word in said


def test_any_letters_are_drawn_without_a_warning(tmp_path):
    image = np.random.default_rng(0).random((8, 8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            figure = viz.overlay(image, image[..., 0], title=name)
            viz.save(figure, tmp_path / "figure.png")
            assert viz.to_array(figure).shape[-1] == 3
            texts = [text for text in figure.texts if text.get_text()]
            assert texts
            assert not any(text.get_parse_math() for text in texts)


def test_images_of_any_name_are_explained(tmp_path, capsys):
    names = NAMES[:3]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in names]
    model = ["--weights", f"{own_networks.__file__}:segmenter", "--class", "1"]
    out = tmp_path / "out"
    more = ["--region", "all", "--method", "grad_cam", "--out", str(out)]
    assert cli.main(["explain", *files, *model, *more]) == 0
    said = capsys.readouterr().out
    assert shortened(LONG)[:20] in said
    assert said.count("grad_cam") == len(names)
    assert [row["path"] for row in rows_of(out)] == files
    for name in run_of(out).names.values():
        assert (out / name / "grad_cam.coarse.png").is_file()
        assert len(os.fsencode(name)) <= 100


def test_scans_of_any_name_are_explained(tmp_path, capsys):
    rng = np.random.default_rng(0)
    files = [tmp_path / NAMES[0] / f"{'y' * 240}.nii.gz", tmp_path / NAMES[0] / "$a$.nii.gz"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        values = rng.normal(size=(8, 8, 8)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)
    options = ("--weights", f"{own_networks.__file__}:volumetric", "--roi", "8")
    options += ("--method", "input_x_gradient", "--min-voxels", "100", "--out")
    out = tmp_path / "out"
    assert cli.main(["instances", *map(str, files), *options, str(out)]) == 0
    assert "input_x_gradient" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["scans"][0]["inputs"] == [str(file) for file in files]
    assert manifest["scans"][0]["name"] == NAMES[0]


def test_a_backend_of_a_notebook_does_not_end_a_command():
    """At 9a93cb7 a traceback: `Key backend: ... is not a valid value for backend`.

    So does a notebook's where its package is not installed; this one is installed nowhere.
    """
    line = [sys.executable, "-m", "segcam_jax", "explain", "--colormap", "no-such-colours"]
    line += ["image.png", "--weights", "texture-mnist-unbiased"]
    environment = {**os.environ, "MPLBACKEND": "of_a_notebook"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "colormap 'no-such-colours' is unknown" in done.stderr


def test_the_backend_of_the_process_stays(monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "template")
    assert cli.main(["--version"]) == cli.main(["no-such-command"]) - 2 == 0
    assert os.environ["MPLBACKEND"] == "template"
    monkeypatch.delenv("MPLBACKEND")
    cli.main(["no-such-command"])
    assert "MPLBACKEND" not in os.environ
