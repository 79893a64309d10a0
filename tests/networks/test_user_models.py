"""Models of users' own files on the command line: found, tried, explained, or refused in a line."""

import json
import re
import sys
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest

import segcam_jax
from segcam_jax import cli
from segcam_jax.data import scans
from segcam_jax.engine.sliding import sliding_window
from segcam_jax.networks.layers import default_layer, find_layer, stages
from segcam_jax.networks.open import open_network
from segcam_jax.networks.spec import NetworkSpec, Normalisation, OpenOptions
from segcam_jax.runs import open_scans
from segcam_jax.runs.scored_scans import ScoredScans
from segcam_jax.runs.work import StudyOptions
from segcam_jax.types import InputError
from tests.support import own_networks
from tests.support.explained import manifest_of, rows_of, run_of

FILE = str(Path(own_networks.__file__))
ROOT = Path(own_networks.__file__).parents[2]


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """Leaves the path of imports and the compilation cache as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("segcam_jax.cli.cache.enable", lambda: None)
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate([(16, 16), (13, 18)]):
        pixels = np.random.default_rng(number).random(size).astype(np.float32)
        np.save(folder / f"image{number}.npy", pixels)
    return folder


def opened(name, **options):
    spec = NetworkSpec.parse(f"tests.support.own_networks:{name}")
    return open_network(spec, OpenOptions(**options))


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def fault(capsys):
    """The one line of a command line that must fail with exit code 2."""

    def check(*arguments):
        capsys.readouterr()
        assert run(*arguments) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
        return line

    return check


def test_a_classifier_is_given_a_batch_and_three_channels():
    network = opened("classifier")
    config = network.config
    assert (config.in_channels, config.classes, config.multiple) == (3, 4, 1)
    assert network.classifies
    assert network.size == (224, 224)
    assert network.labels == ["0", "1", "2", "3"]
    assert network.name == "tests.support.own_networks-classifier"
    assert "is Classifier: 4 classes for an image of 224 x 224 x 3" in network.note
    assert stages(network.taps) == ["stem", "body"]
    assert find_layer(network, default_layer(network)) == "body"


def test_a_segmentation_network_says_what_it_can_halve():
    network = opened("segmenter")
    config = network.config
    assert (config.in_channels, config.classes, config.multiple) == (1, 3, 2)
    assert network.size is None
    assert not network.classifies
    assert find_layer(network, default_layer(network)) == "coarse"
    assert find_layer(network, "last") == "coarse"  # Not the head, which is the logits.
    assert opened("segmenter", size=(20, 30)).config.multiple == 1


def test_coarse_logits_are_resized_to_the_image():
    network = opened("coarse")
    assert network.config.multiple == 4
    assert "resized by 4" in network.note
    x = np.random.default_rng(0).random((16, 20, 3)).astype(np.float32)
    model = own_networks.coarse()
    logits = np.asarray(jax.vmap(model, axis_name="n")(np.moveaxis(x, -1, 0)[None])[0])
    expected = jax.image.resize(np.moveaxis(logits, 0, -1), (16, 20, 2), "linear", antialias=False)
    np.testing.assert_allclose(network.logits(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "channels"), [("volumetric", 2), ("volumetric_of_three", 3)])
def test_a_network_of_volumes_is_found_by_its_convolutions(name, channels):
    """A batch of one image would do for a volume of one slice: at 9a93cb7 it was one of images."""
    network = opened(name, ndims=(2, 3))
    config = network.config
    multiple = 2 if name == "volumetric" else 1
    assert (config.ndim, config.in_channels, config.classes) == (3, channels, 2)
    assert config.multiple == multiple
    assert network.extent == (64, 64, 64)
    assert network.size is None
    assert f"each voxel of a volume of any size, {channels} channels" in network.note
    with pytest.raises(InputError, match="is a network of volumes, .* `segcam instances`"):
        opened(name)


def test_a_network_of_images_is_none_of_volumes():
    """Flax's convolutions take further axes for a batch."""
    with pytest.raises(InputError, match="is a network of images, this command needs one of vol"):
        opened("segmenter", ndims=(3,))
    assert opened("segmenter", ndims=(2, 3)).config.ndim == 2
    with pytest.raises(InputError, match="convolutions run along 2 axes, but a volume has 3"):
        opened("slices", ndims=(3,))
    told = opened("slices_of_one", ndims=(3,))
    assert (told.config.ndim, told.config.classes) == (3, 2)
    assert told.list_taps((4, 6, 8, 1))["input"].shape == (4, 6, 8, 1)
    fixed = opened("volumes_of_eight", size=(8,), ndims=(3,))
    assert fixed.config.extents == (8, 8, 8)


def test_normalisation_comes_before_the_model():
    plain, normalised = (
        opened("function", size=(16, 16), normalisation=each)
        for each in (None, Normalisation.parse("0.5/0.25"))
    )
    x = np.random.default_rng(0).random((16, 16, 1)).astype(np.float32)
    np.testing.assert_allclose(normalised.logits(x), plain.logits((x - 0.5) / 0.25), rtol=1e-5)
    assert plain.sha256 != normalised.sha256
    assert Normalisation.parse("none").moments is None
    assert Normalisation.parse("imagenet").moments == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with pytest.raises(InputError, match="is not for 1 channel"):
        opened("function", size=(16, 16), normalisation=Normalisation.parse("imagenet"))


@pytest.mark.parametrize("words", ["imagenett", "1/0", "1", "1/nan", "a/b"])
def test_no_normalisation(words):
    with pytest.raises(InputError, match=r"(unknown normalisation|give finite means)"):
        Normalisation.parse(words)


def test_a_model_that_stands_in_the_module_is_taken():
    assert opened("instance").model.name == "Classifier"


def test_weights_that_a_function_closes_over_are_in_its_digest(tmp_path):
    (tmp_path / "holding.py").write_text(
        "import pathlib\nimport jax\nimport jax.numpy as jnp\nimport numpy as np\n\n"
        "def make():\n"
        "    weights = np.load(pathlib.Path(__file__).with_name('w.npy'))\n"
        "    head = jax.jit(lambda x: x @ weights)\n"
        "    return (lambda params, x: head(jnp.mean(x, (0, 1)))), {}\n"
    )
    digests = []
    for value in (1, 1, 2):
        np.save(tmp_path / "w.npy", np.full((3, 4), value, np.float32))
        spec = NetworkSpec.parse(f"{tmp_path}/holding.py:make")
        digests.append(open_network(spec).sha256)
    assert digests[0] == digests[1] != digests[2]


def test_equal_factories_make_equal_digests():
    first, second, other = (opened(name) for name in ("classifier", "classifier", "instance"))
    assert first.sha256 == second.sha256 != other.sha256
    assert opened("classifier", size=(32, 32)).key != first.key


def test_layers_and_explain(images, tmp_path, capsys):
    assert run("layers", f"{FILE}:classifier", "--size", 16) == 0
    out = capsys.readouterr().out
    assert re.search(r"body +│ +4 x 4 +│ +6 │ middle, last, the default tap|last, the default", out)
    labels = tmp_path / "names.txt"
    labels.write_text("\n".join(own_networks.NAMES))
    line = ("explain", images / "image0.npy", "--weights", f"{FILE}:classifier", "--size", 16)
    line = (*line, "--labels", labels, "--method", "grad_cam", "--out", tmp_path / "out")
    assert run(*line, "--class", "tiger cat", "--class", "tabby,snail") == 2
    assert "class 'tabby,snail' is not" in capsys.readouterr().err
    assert run(*line, "--class", "tiger cat", "tabby") == 0
    rows = rows_of(tmp_path / "out")
    assert [row["target"] for row in rows] == ["tiger-cat", "tabby"]
    assert [row["class_index"] for row in rows] == [1, 0]
    x = np.repeat(np.load(images / "image0.npy")[..., None], 3, axis=-1)
    fn, params = segcam_jax.from_nnx(own_networks.classifier(), batch_axis=0)
    assert rows[0]["predicted"] == own_networks.NAMES[int(np.argmax(fn(params, x)))]
    assert rows[0]["predicted_share"] == pytest.approx(
        float(jax.nn.softmax(fn(params, x)).max()), 1e-4
    )
    split = segcam_jax.split(fn, "body", params, x)
    for row in rows:
        target = segcam_jax.targets.whole_image(row["class_index"])
        expected = segcam_jax.methods.grad_cam(split, params, x, target).map
        found = np.load(tmp_path / "out" / f"image0.{row['target']}" / "grad_cam.body.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)

    again = tmp_path / "again"
    assert run("explain", "--config", tmp_path / "out", "--out", again) == 0
    for path in (tmp_path / "out").rglob("*.npy"):
        other = again / path.relative_to(tmp_path / "out")
        assert other.read_bytes() == path.read_bytes()


def test_a_segmentation_network_is_padded_and_cropped(images, tmp_path, monkeypatch, fault):
    source = tmp_path / "my_net.py"
    source.write_text("from tests.support.own_networks import segmenter as make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    line = ("explain", images / "image1.npy", "--weights", "my_net:make", "--method", "grad_cam")
    assert run(*line, "--region", "all", "--tap", "first", "--out", "out") == 0
    (row,) = rows_of("out")
    assert (row["extent"], row["padded"], row["pixels"]) == ("13x18", "14x18", 13 * 18)
    assert run_of("out").map(0, "fine", "grad_cam").shape == (14, 18)
    source.write_text(source.read_text() + "WIDTH = 3\n")
    repeated = fault("explain", "--config", "out", "--out", "again")
    assert "its source or parameters are not those of 'out/manifest.json'" in repeated


def test_names_that_are_suggested_are_functions(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net_of_mine.py").write_text(
        "import dataclasses\nParams = dict[str, int]\nWIDTH = 3\n"
        "@dataclasses.dataclass\nclass Config:\n    width: int = 3\n"
        "def make_network():\n    return WIDTH\n"
    )
    assert fault("layers", "net_of_mine.py:mak").endswith(" has no 'mak'; it has make_network")
    assert fault("layers", "net_of_mine.py").endswith("; it has make_network")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("no.such.module:make", r"there is no module 'no' in "),
        ("tests.support.own_netwrks:make", r"there is no module 'tests.support.own_netwrks'"),
        ("tests/support/own_netwrks.py:make", r"does not exist; there are own_networks.py"),
        (
            FILE,
            r"networks.py' names a file; add :NAME of the function .*; it has classifier, ",
        ),
        (f"{FILE}:", r"names no function; give module.path:NAME"),
        (f"{FILE}:clasifier", r"has no 'clasifier'; it has classifier, "),
        (f"{FILE}:needy", r"needy needs the arguments rngs, but segcam calls it without any"),
        (f"{FILE}:Classifier", r"Classifier needs the arguments rngs"),
        (
            f"{FILE}:failing",
            r"failing fails: .*/own_networks.py, line \d+: KeyError: 'depth'",
        ),
        (f"{FILE}:nothing", r"nothing returned nothing; expected an nnx.Module"),
        (f"{FILE}:NAMES", r"NAMES returned a tuple of a value of type str"),
        (f"{FILE}:without_variables", r"returned a linen.Module \(Segmenter\) without its var"),
        (f"{FILE}:a_class", r"returned the class Classifier, not an object"),
        (f"{FILE}:two_outputs", r"returns a tuple of 2 array\(s\), .*=lambda out: out\[0\]\)"),
        (f"{FILE}:named_outputs", r"returns a dict of 2 array\(s\), .*=lambda out: out\['map'\]\)"),
        (
            f"{FILE}:two_inputs",
            r"call needs the argument 'mask'; a command gives the model only an .*NAME=VALUE.$",
        ),
        (f"{FILE}:odd_output", r"returns 221 x 223 logits for an image of 224 x 224"),
        (
            f"{FILE}:small_only",
            r"fails on an image of 224 x 224 x 3: .*/own_networks.py, line \d+: TypeError: "
            r".*--size H W",
        ),
    ],
)
def test_faults_are_one_line(fault, words, complaint):
    assert re.search(complaint, fault("layers", words))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def make(:\n", r"broken.py, line 1: SyntaxError: invalid syntax"),
        ("import nothing_at_all\n", r"broken.py, line 1: ModuleNotFoundError: No module named"),
        ("\n\nraise SystemExit(3)\n", r"broken.py, line 3: SystemExit: 3"),
        ("from . import other\n", r"broken.py, line 1: ImportError: attempted relative"),
        ("make = 3\n", r"make returned a value of type int"),
        ("", r"'broken.py' has no 'make' and defines nothing"),
    ],
)
def test_modules_that_do_not_import(tmp_path, monkeypatch, fault, source, complaint):
    (tmp_path / "broken.py").write_text(source)
    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    line = fault("explain", "x.png", "--weights", "broken.py:make", "--out", "out")
    assert re.search(complaint, line)
    assert not (tmp_path / "out").exists()


def test_a_module_of_another_ones_name_is_still_found(tmp_path, monkeypatch):
    """`json` is imported long before."""
    (tmp_path / "json.py").write_text("from tests.support.own_networks import function as make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    assert open_network(NetworkSpec.parse("json.py:make")).model.name == "fn"
    assert sys.modules["json"] is json


def test_small_models_work_at_their_size():
    assert opened("small_only", size=(16, 16)).size == (16, 16)
    with pytest.raises(InputError, match="--size was given 3; give"):
        OpenOptions.of(StudyOptions(size=(3,)))


@pytest.mark.parametrize("command", ["explain", "embed", "gallery"])
def test_a_model_that_fails_on_one_image(command, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, height in enumerate((16, 16, 16, 20)):
        np.save(folder / f"{number}.npy", np.full((height, 16, 3), number / 4, np.float32))
    of = ("--no-figures", "--class", 0)
    given = {"embed": ("--projection", "pca"), "explain": of, "gallery": of}
    given = (*given[command], "--tap", "input", "--out", tmp_path / "out")
    assert run(command, folder, "--weights", f"{FILE}:picky", *given) == 3
    line = capsys.readouterr().err.replace("\n", " ")
    assert re.search(r"fails on an image of 20 x 16 x 3: .*line \d+: ValueError: not twenty", line)
    store = tmp_path / "out" / ("own_networks-picky.zarr" if command == "gallery" else "run.zarr")
    assert [row["extent"] for row in rows_of(store)] == ["16x16"] * 3


def test_options_of_ones_own_models_alone(fault, tmp_path):
    end = ("--out", tmp_path / "out")
    (tmp_path / "x.png").write_bytes(b"")
    bundled = ("explain", tmp_path / "x.png", "--weights", "texture-mnist-biased")
    assert "is for models of your own" in fault(*bundled, "--normalisation", "none", *end)
    assert "is for models of your own" in fault(*bundled, "--channels", 1, *end)
    assert "two networks" in fault("layers", f"{FILE}:classifier", "--weights", "x")


@pytest.fixture
def bands(tmp_path):
    """16 x 16: 12 black rows, one grey, three white; and a black image."""
    pixels = np.zeros((16, 16), np.float32)
    pixels[12], pixels[13:] = 0.5, 1
    np.save(tmp_path / "bands.npy", pixels)
    np.save(tmp_path / "black.npy", 0 * pixels)
    return tmp_path


def explained(out):
    (row,) = rows_of(out)
    return row["class_index"], row["pixels"], row["chosen"]


@pytest.mark.parametrize(
    ("labels", "chosen", "expected", "said", "background"),
    [
        ((), (), (2, 48), "class 0 has no name and is assumed to be the background", [0, True]),
        ((), ("--class", 0), (0, 192), "", [0, True]),
        ("sky Background tree", (), (0, 192), "class 1, 'Background', is the", [1, False]),
        ("__background__ a b", (), (2, 48), "--class __background__ explains", [0, False]),
        ("sky sea tree", (), (0, 192), "", None),
        ((), ("--multi-label", "--class", "2"), (2, 48), "", None),
    ],
)
def test_the_background_is_explained_only_when_asked_for(
    bands, capsys, labels, chosen, expected, said, background
):
    given = ()
    if labels:
        (bands / "names.txt").write_text("\n".join(labels.split()))
        given = ("--labels", bands / "names.txt")
    line = ("explain", bands / "bands.npy", "--weights", f"{FILE}:banded", "--method", "grad_cam")
    out = bands / "out"
    assert run(*line, "--tap", "hidden", *given, *chosen, "--out", out) == 0
    err = capsys.readouterr().err
    assert said in err
    assert bool(said) == ("the background" in err)
    index, pixels, how = explained(out)
    assert (index, pixels) == expected
    assert how == (str(chosen[-1]) if chosen else "top:1")
    found = manifest_of(out)["network"]["background"]
    assert (found and [found["index"], found["assumed"]]) == background


def test_images_of_background_alone_are_left_out_and_said(bands, capsys):
    line = ("--weights", f"{FILE}:banded", "--method", "grad_cam", "--tap", "hidden")
    both = ("explain", bands / "black.npy", bands / "bands.npy", *line)
    assert run(*both, "--out", bands / "out") == 3
    assert "black.npy': only the background, class '0', is" in capsys.readouterr().err
    assert explained(bands / "out")[:2] == (2, 48)
    assert run("explain", bands / "black.npy", *line, "--out", bands / "none") == 3
    assert "only the background, class '0', is" in capsys.readouterr().err
    assert run("gallery", bands / "black.npy", *line, "--out", bands / "gallery") == 3
    assert "only the background, class '0', is" in capsys.readouterr().err


def test_a_gallery_says_what_it_takes_for_the_background(bands, capsys):
    out = bands / "out"
    line = ("gallery", bands / "bands.npy", "--weights", f"{FILE}:banded", "--tap", "hidden")
    assert run(*line, "--method", "grad_cam", "--out", out) == 0
    said = capsys.readouterr().err
    assert "own_networks-banded: class 0 has no name and is assumed" in said
    assert "--class 0 explains the background" in said
    index = json.loads((out / "gallery.json").read_text())
    (told,), (network,) = index["maps"], index["networks"].values()
    assert (told["class_index"], network["background"]) == (2, 0)


def test_volumes_are_explained_by_ones_own_network(tmp_path, capsys, fault):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        values = rng.normal(size=(9, 8, 8)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    files = (tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    roi = ("--roi", 8, "--out", tmp_path / "out")
    model = ("--weights", f"{FILE}:volumetric", *roi)
    given = ("--method", "grad_cam", "--min-voxels", 100, "--layout", "coarse=dhwc")
    assert run("instances", *files, *model, *given) == 0
    scored = ScoredScans(open_scans(tmp_path / "out"))
    assert scored.network.layouts == {"coarse": "dhwc"}
    said = capsys.readouterr()
    assert "is Volumetric: 2 classes for each voxel" in said.err.replace("\n", " ")
    (record,) = (tmp_path / "out").glob("*/instance-001/record.json")
    maps = json.loads(record.read_text())["maps"]
    assert [(each["method"], each["tap"]) for each in maps] == [("grad_cam", "coarse")]
    written = nibabel.load(tmp_path / "out" / f"{record.parents[1].name}/probability.nii.gz")
    spec = NetworkSpec.parse(f"{FILE}:volumetric")
    network = open_network(spec, OpenOptions(size=(8,), ndims=(3,)))
    x = scans.zscore(np.stack([nibabel.load(each).get_fdata() for each in files], -1))
    logits = sliding_window(network.fn, network.params, x, roi=8)
    np.testing.assert_allclose(written.get_fdata(), jax.nn.softmax(logits)[..., 1], atol=1e-5)

    assert "is a network of volumes" in fault("explain", files[0], *model[:2])
    told = fault("explain", files[0], "--weights", "texture-mnist-unbiased")
    assert "`segcam instances` or `segcam context`" in told
    assert "needs one of volumes" in fault("instances", *files, "--weights", f"{FILE}:segmenter")
    assert "takes multiples of 2 x 2 x 2" in fault("context", *files, *model[:2], "--roi", 7)
    assert "--roi and --channels" in fault("context", *files, *model[:2], "--channels", 3)
    assert "for models of your own" in fault(
        "instances", *files, "--weights", "lesions", "--channels", 2
    )


def test_the_taps_of_a_network_of_volumes_are_listed(capsys, fault):
    assert run("layers", f"{FILE}:volumetric", "--size", 16, 12, 8) == 0
    said = capsys.readouterr().out
    assert "for a volume of 16 x 12 x 8" in said
    assert "8 x 6 x 4" in said
    wrong = fault("layers", f"{FILE}:volumetric", "--size", 16, 16)
    assert "size 16 x 16; give one number, or 3" in wrong


def test_a_layout_is_told_and_said(tmp_path, capsys, fault):
    """Of a tap of which two axes could be channels."""
    (tmp_path / "gates.py").write_text(
        "import jax.numpy as jnp\n"
        "from segcam_jax import tap\n\n"
        "def fn(params, x):\n"
        "    gates = tap(jnp.einsum('hwc,ck->ck', x, params[0]), 'gates')\n"
        "    return jnp.stack([x @ gates.sum(1), x.sum(-1)], -1)\n\n"
        "def make():\n"
        "    return fn, [jnp.ones((3, 5))]\n"
    )
    make = f"{tmp_path / 'gates.py'}:make"
    listed = ("layers", make, "--size", 16)
    assert run(*listed) == 0
    told = capsys.readouterr().out
    assert re.search(r"gates +│ +3 +│ +5 │ .*nc +│ the last axis: several axes could be", told)
    assert run(*listed, "--layout", "gates=cn") == 0
    assert re.search(r"gates +│ +5 +│ +3 │ .*cn +│ as given; otherwise", capsys.readouterr().out)
    assert "give TAP=LETTERS" in fault(*listed, "--layout", "gates")
    assert "give TAP=LETTERS" in fault(*listed, "--layout", "gates=whc")
    assert "'gate', which is not a tap; the nearest are gates" in fault(
        *listed, "--layout", "gate=cn"
    )
    assert "gates=chw; the tap has (5, 3), 2 axes" in fault(*listed, "--layout", "gates=chw")
    assert "twice" in fault(*listed, "--layout", "gates=cn", "gates=nc")


def test_tokens_are_not_drawn_over_the_image(tmp_path, capsys, fault):
    """A transformer's heads are no image; its default tap is one."""
    image = tmp_path / "image.npy"
    np.save(image, np.random.default_rng(0).random((32, 32, 3)).astype(np.float32))
    model = f"{FILE}:transformer"
    assert run("layers", model, "--size", 32) == 0
    out = capsys.readouterr().out
    assert re.search(r"attention/query +│ +65 x 4 +│ +4 │ positions of its own", out)
    assert re.search(r"grid +│ +8 x 8 +│ +16 │ .*the default tap", out)
    line = ("explain", image, "--weights", model, "--size", 32, "--out", tmp_path / "out")
    assert "positions of its own, 65 x 4, not the image's" in fault(
        *line, "--tap", "attention/query"
    )
    assert run(*line, "--method", "grad_cam") == 0
    assert np.load(tmp_path / "out" / "image" / "grad_cam.grid.npy").shape == (8, 8)
