import dataclasses
import itertools
import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import ndimage

from segcam_jax import models
from segcam_jax.data.instances import measured
from segcam_jax.models.monai_unet import monai_unet
from segcam_jax.types import InputError
from train import loop
from train.data import lesions
from train.data.brain_template import Template, make_template, mni152, read_template
from train.data.lesions import FLAIR_ONLY, LESION, T1_ONLY, LesionCases, LesionConfig
from train.products import as_products

SIDE = 32
QUIET = LesionConfig(split="test", noise=(0, 0), bias_field=(0, 0), voxels=(5, 60))


def sphere():
    """A ball of white matter with fluid inside and a rim of grey matter."""
    middle = (SIDE - 1) / 2
    radius = np.linalg.norm(np.indices((SIDE,) * 3) - middle, axis=0)
    t1 = np.select([radius < 3, radius < 11, radius < 14], [0.4, 1.0, 0.75], 0)
    return Template(t1.astype(np.float32), (0.4, 0.75, 1.0), np.diag([2.0, 2, 2, 1]), "ball")


@pytest.fixture(scope="module")
def brain():
    return sphere()


@pytest.fixture(scope="module")
def planted(brain):
    """Cases without noise, and the same without anything planted."""
    bare = dataclasses.replace(QUIET, lesions=(0, 0), t1_only=(0, 0), flair_only=(0, 0))
    pairs = [(LesionCases(brain, QUIET)[n], LesionCases(brain, bare)[n]) for n in range(3)]
    assert all(any(p.kind == kind for p in c.plants) for c, _ in pairs for kind in (1, 2, 3))
    return pairs


# --- cases -----------------------------------------------------------------------------------


def test_a_case_is_a_function_of_its_index(brain):
    cases, again = LesionCases(brain, LesionConfig()), LesionCases(sphere(), LesionConfig())
    others = [cases[1], cases[0]]
    for one, two in zip(others, [again[1], again[0]], strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.lesions, two.lesions)
        assert one.plants == two.plants
    assert not np.array_equal(others[0].lesions, others[1].lesions)
    for config in (LesionConfig(split="test"), LesionConfig(seed=1)):
        assert not np.array_equal(LesionCases(brain, config)[0].image, cases[0].image)
    with pytest.raises(IndexError, match="there are 10000"):
        cases[10_000]


def test_a_case_has_the_documented_form(brain):
    case = LesionCases(brain, LesionConfig())[0]
    assert case.image.shape == (SIDE,) * 3 + (2,)
    assert case.image.dtype == np.float32
    assert case.lesions.dtype == case.kind.dtype == np.int32
    inside = case.image > 0
    np.testing.assert_array_equal(inside[..., 0], inside[..., 1])
    assert not case.image[~inside].any()
    assert 0.02 < inside.mean() < 0.6
    np.testing.assert_array_equal(case.lesions > 0, case.kind == LESION)


def test_blobs_are_where_and_as_large_as_the_masks_say(planted):
    for case, bare in planted:
        count = sum(plant.kind == LESION for plant in case.plants)
        parts, found = ndimage.label(case.kind, np.ones((3, 3, 3)))
        assert found == len(case.plants)
        sizes = [plant.voxels for plant in case.plants]
        assert sorted(np.bincount(parts.ravel())[1:]) == sorted(sizes)
        assert min(sizes) >= QUIET.voxels[0]
        assert max(sizes) <= QUIET.voxels[1]
        assert list(np.unique(case.lesions)) == list(range(count + 1))
        np.testing.assert_array_equal(np.bincount(case.lesions.ravel())[1:], sizes[:count])
        changed = (case.image != bare.image).any(-1)
        near = ndimage.binary_dilation(case.kind > 0, np.ones((3, 3, 3)), iterations=3)
        assert not (changed & ~near).any()
        assert changed[case.kind > 0].all()


def test_each_kind_changes_what_it_should(planted):
    for case, bare in planted:
        flair, t1 = np.moveaxis(case.image - bare.image, -1, 0)
        assert (flair[case.kind == LESION] > 0).all()
        assert (t1[case.kind == LESION] < 0).all()
        np.testing.assert_array_equal(flair[case.kind == T1_ONLY], 0)
        assert (t1[case.kind == T1_ONLY] < 0).all()
        assert (flair[case.kind == FLAIR_ONLY] > 0).all()
        np.testing.assert_array_equal(t1[case.kind == FLAIR_ONLY], 0)


def test_lesions_are_in_white_matter_and_flair_distractors_are_not(planted):
    for case, bare in planted:
        t1, white = bare.image[..., 1], bare.image[..., 1].max()
        assert (t1[case.kind == LESION] > 0.9 * white).all()
        assert (t1[case.kind == T1_ONLY] > 0.9 * white).all()
        assert (t1[case.kind == FLAIR_ONLY] < 0.9 * white).all()


def test_flair_tells_lesions_and_t1_does_not():
    config = LesionConfig()
    assert config.flair_contrast[0] >= config.t1_contrast[1]
    assert config.t1_only_contrast[1] > config.t1_contrast[1]


def test_acquisitions_differ_and_leave_anatomy_and_blobs(brain):
    quiet, loud = (
        LesionCases(brain, dataclasses.replace(QUIET, noise=n)) for n in ((0, 0), (1, 1))
    )
    np.testing.assert_array_equal(quiet[0].kind, loud[0].kind)
    assert quiet[0].plants == loud[0].plants
    assert np.abs(quiet[0].image - loud[0].image).max() > 0.5
    assert quiet[0].image.max() != quiet[1].image.max()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "all"}, "train, test"),
        ({"cases": 0}, "at least 1"),
        ({"voxels": (0, 5)}, "at least 1"),
        ({"lesions": (5, 2)}, "two bounds"),
        ({"noise": (-1, 0)}, "two bounds"),
    ],
)
def test_impossible_settings_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        LesionConfig(**change)


# --- templates -------------------------------------------------------------------------------


def test_a_template_is_cut_to_the_brain_and_keeps_its_place():
    values = np.zeros((50, 60, 40))
    values[10:40, 14:50, 6:30] = 80
    values[12:38, 16:48, 8:28] = 160
    values[16:34, 20:44, 12:24] = 210
    affine = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1]])
    found = make_template(values, affine, "box")
    assert found.t1.shape == (16, 32, 16)
    np.testing.assert_allclose(np.diag(found.affine), [-2, 2, 2, 1])
    middle = found.affine @ [*(np.array(found.t1.shape) - 1) / 2, 1]
    np.testing.assert_allclose(middle, affine @ [24.5, 31.5, 17.5, 1])
    np.testing.assert_allclose(found.levels, (80 / 210, 160 / 210, 1), atol=0.1)
    np.testing.assert_allclose(found.t1[8, 16, 8], 1, atol=0.05)
    assert 0.9 < found.brain.sum() / (15 * 18 * 12) < 1.2


@pytest.mark.parametrize("values", [np.zeros((4, 4, 4)), np.full((4, 4, 4), np.nan)])
def test_a_template_without_a_brain_is_refused(values):
    with pytest.raises(InputError, match="skull-stripped"):
        make_template(values, np.eye(4), "nothing")


def test_a_template_is_read_from_a_file(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    brain = sphere()
    path = tmp_path / "ball.nii.gz"
    nibabel.save(nibabel.Nifti1Image(brain.t1, brain.affine), path)
    found = read_template(path)
    assert found.name == "ball"
    assert found.t1.shape == (SIDE,) * 3
    with pytest.raises(InputError, match="does not exist"):
        read_template(tmp_path / "none.nii.gz")


@pytest.mark.slow
def test_nilearns_brain_has_three_tissues():
    pytest.importorskip("nilearn")
    found = mni152()
    assert found.t1.shape == (80, 96, 80)
    fluid, grey, white = found.levels
    assert 0.2 < fluid < 0.6 < grey < 0.9 < white == 1
    case = LesionCases(found, LesionConfig(split="test"))[0]
    assert 5 <= case.lesions.max() <= 15


# --- convolutions as products ----------------------------------------------------------------


def test_products_are_the_networks_convolutions():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 4, 2))

    def value_and_gradient(products):
        network = monai_unet(channels=(3, 4), strides=(2,), norm="instance")
        if products:
            as_products(network)
        graph, params = nnx.split(network)

        @jax.jit
        @jax.value_and_grad
        def value(params_and_x):
            params, x = params_and_x
            return jnp.square(jnp.tanh(nnx.merge(graph, params)(x))).sum()

        found, (of_params, of_x) = value((params, x))
        flat = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(of_params)}
        return found, {"x": of_x, **{name: np.asarray(leaf) for name, leaf in flat.items()}}

    (one, gradients), (other, expected) = value_and_gradient(True), value_and_gradient(False)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    scale = max(np.abs(value).max() for value in expected.values())
    for name in expected:
        np.testing.assert_allclose(gradients[name], expected[name], atol=1e-6 * scale, err_msg=name)


# --- training --------------------------------------------------------------------------------

TINY = {
    "steps": 4,
    "batch": 1,
    "channels": (2, 3),
    "strides": (2,),
    "evaluate_every": 2,
    "evaluate_cases": 1,
    "score_cases": 1,
}


@pytest.fixture(scope="module")
def training():
    pytest.importorskip("grain")
    from train.lesions import data, task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "open_template", lambda config: sphere())
        yield task


@pytest.fixture(scope="module")
def whole_run(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesions")
    config = training.LesionTraining(out=folder / "run", export=folder / "w.safetensors", **TINY)
    # Adam of optax raises a float to the power of its integer step.
    with jax.numpy_dtype_promotion("standard"):
        return config, training.train(config)


def test_a_run_writes_weights_that_load(whole_run):
    config, metrics = whole_run
    assert metrics == json.loads((config.out / "metrics.json").read_text())
    assert [row["step"] for row in metrics["history"]] == [2, 4]
    assert (config.out / "curves.png").read_bytes()[1:4] == b"PNG"
    model = models.load(config.export)
    assert model.class_names == list(lesions.CLASSES)
    assert model.metadata["modalities"] == list(lesions.MODALITIES)
    assert model.metadata["scores"] == metrics["scores"]
    assert model.config.channels == config.channels


def test_a_stopped_run_resumes_to_the_same_weights(training, whole_run, tmp_path, monkeypatch):
    config = dataclasses.replace(whole_run[0], out=tmp_path / "run", export=None)
    batches = loop.batches

    def interrupted(source, *, start, **options):
        for step, batch in enumerate(batches(source, start=start, **options), start=start + 1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(loop, "batches", interrupted)
    with jax.numpy_dtype_promotion("standard"):
        assert training.train(config) is None
        monkeypatch.setattr(loop, "batches", batches)
        assert training.train(config) == whole_run[1]
    found, expected = (c.out / "weights.safetensors" for c in (config, whole_run[0]))
    assert found.read_bytes() == expected.read_bytes()


def test_a_run_of_other_settings_is_refused(training, whole_run):
    # A planted run of version 0.7, which knew nothing of scans, resumes.
    kept = json.loads((whole_run[0].out / "config.json").read_text())
    assert kept["spacing"] == 2.0
    assert not {"crop", "prefixes", "held_out_share", "positives"} & {*kept}
    with pytest.raises(InputError, match="another loss"):
        training.train(dataclasses.replace(whole_run[0], loss="normalised_dice_focal"))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"spacing": 0.0},
        {"spacing": float("nan")},
        {"learning_rate": float("inf")},
        {"seed": -1},
        {"threshold": 1.0},
        {"channels": (2, 0)},
        {"strides": (3,)},
    ],
)
def test_bad_settings_are_refused_before_a_folder_is_made(training, change, tmp_path):
    config = training.LesionTraining(**TINY | change, out=tmp_path / "run")
    with pytest.raises(InputError, match=f"`{next(iter(change))}`|multiples of 3"):
        training.train(config)
    assert not config.out.exists()


def test_the_loss_falls_where_the_truth_is_found(training):
    label = jnp.zeros((1, 4, 4, 4), jnp.int32).at[0, 1, 2, 1:3].set(1)
    right = jax.nn.one_hot(label, 2) * 8
    loss = jax.jit(training.dice_cross_entropy)
    assert loss(right, label) < 0.1 < 0.5 < loss(8 - right, label)
    assert len(training.LOSSES) == 5
    focal = jax.jit(training.LOSSES["generalised_dice_focal"])
    np.testing.assert_array_equal(focal(8 - right, label), focal(8 - right, label * 7))


# --- a user's scans --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three patients, one of them in the axes L, P, S; their lesions are what is bright."""
    nibabel = pytest.importorskip("nibabel")
    folder = tmp_path_factory.mktemp("cohort") / "all [b]"
    rng = np.random.default_rng(0)
    for number, flip in enumerate((1, -1, 1)):
        session = folder / f"patient{number}" / "first"
        session.mkdir(parents=True)
        mask = np.zeros((12, 14, 10), np.uint8)
        mask[2:5, 3:6, 2:5] = mask[8:10, 9:11, 6:8] = 1
        images = {"flair": 1 + rng.random(mask.shape) + 3 * mask, "t1": 1 + rng.random(mask.shape)}
        for name, values in {**images, "mask": mask}.items():
            affine = np.diag([flip * 1.0, flip, 1.5, 1])
            values = values[::flip, ::flip].astype(np.uint8 if name == "mask" else np.float32)
            nibabel.save(nibabel.Nifti1Image(values, affine), session / f"{name}.nii.gz")
    return folder


def of_scans(training, cohort, **change):
    scans = {"data": cohort, "prefixes": ("flair", "t1"), "truth_prefix": "mask", "crop": 8}
    settings = {"crops": 2, "batch": 2, "steps": 2, "loss": "blob_normalised_dice"}
    planted = {"evaluate_cases": 8, "score_cases": 40}
    return training.LesionTraining(**{**TINY, **planted, **scans, **settings, **change})


def test_scans_lie_alike_and_patients_are_held_out(training, cohort):
    from train.lesions.scans import read_scans

    found = read_scans(of_scans(training, cohort, held_out_share=0.3))
    assert (len(found.training), len(found.held_out)) == (2, 1)
    assert found.patients == (found.held_out.cases[0].files.files[0].parent.parent.name,)
    # Told once of the images of three patients, and not that scans are turned.
    assert [note.partition(": ")[2][:13] for note in found.notes] == [
        "the file does",
        "no voxel is 0",
    ]
    assert found.frame.metadata == {"orientation": "RAS", "spacing": [1, 1, 1.5]}
    for case in (found.training[0], found.training[1], found.held_out[0]):
        assert case.lesions[3, 4, 3] == 1
        assert case.lesions[8, 9, 6] == case.lesions.max() == 2
        assert (
            case.image[case.lesions > 0][:, 0] > case.image[case.lesions == 0][:, 0].max()
        ).all()
        np.testing.assert_allclose(case.image.mean((0, 1, 2)), 0, atol=1e-5)


def test_crops_keep_lesions_where_they_are():
    from train.lesions.scans import Case, _window, cropped

    ball = np.linalg.norm(np.indices((40, 36, 32)) - np.reshape([20, 18, 16], (3, 1, 1, 1)), axis=0)
    lesions = (ball < 9).astype(np.int32)
    case, turned = Case(np.stack([lesions, ball], -1).astype(np.float32), lesions), 0
    for seed in range(12):
        image, labels = cropped(case, 24, 4, np.random.default_rng(seed))
        assert image.shape == (24, 24, 24, 2)
        assert labels.any()
        assert ((image[..., 0] > 0.5) == (labels > 0)).mean() > 0.97
        turned += abs(labels.sum() - lesions.sum()) > 0
        again = cropped(case, 24, 4, np.random.default_rng(seed))
        np.testing.assert_array_equal(image, again[0])
    assert turned > 3
    # Four of five are around the lesion; of a scan without any, all are elsewhere.
    lesions = np.zeros((30, 30, 30), np.int32)
    lesions[10, 20, 15] = 1
    rng, case = np.random.default_rng(0), Case(np.zeros((30, 30, 30, 1), np.float32), lesions)
    shares = [_window(case, 3, 4, rng)[1].any() for _ in range(300)]
    assert 0.74 < np.mean(shares) < 0.86
    nothing = Case(case.image, np.zeros_like(lesions))
    assert not _window(nothing, 3, 4, rng)[1].any()
    # A scan that is smaller than the window is padded.
    assert _window(case, 40, 4, rng)[0].shape == (40, 40, 40, 1)


def test_crops_of_a_step_are_of_different_scans(training, monkeypatch):
    from train.lesions import scans

    monkeypatch.setattr(scans, "cropped", lambda case, *_: case)
    config = training.LesionTraining(batch=2, crops=2, steps=40)
    crops = scans.Crops(config, [*range(3)])
    steps = [{crops[2 * step], crops[2 * step + 1]} for step in range(40)]
    assert all(len(step) == 2 for step in steps)
    assert steps[::2] == steps[1::2]
    assert {*map(frozenset, steps)} == {frozenset({0, 1}), frozenset({0, 2}), frozenset({1, 2})}


def test_lesions_are_those_of_the_source(training):
    """Voxels that meet at a corner are two lesions; numbers of a crop have no gaps."""
    from train.lesions.scans import CONNECTIVITY, Case, _renumbered

    mask = np.zeros((4, 4, 4), np.int32)
    mask[0, 0, 0], mask[1, 1, 1] = 1, 2
    cases = [Case(mask[..., None].astype(np.float32), mask)]
    for connectivity, found in ((CONNECTIVITY, 2), (None, 1)):
        scores = training.evaluate(lambda x: (x[..., 0] > 0) * 1.0, cases, 0.5, connectivity)
        assert scores["TP"] == found
    np.testing.assert_array_equal(_renumbered(mask * 900), mask)
    np.testing.assert_array_equal(_renumbered(np.full((2, 2, 2), 9)), np.ones((2, 2, 2)))


def test_a_network_is_trained_on_scans(training, cohort, tmp_path, capsys):
    config = of_scans(training, cohort, out=tmp_path / "run")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        metrics = training.train(config)
    said = " ".join(capsys.readouterr().out.split())
    assert (said.count("no voxel is 0"), "all [b]" in said) == (1, True)
    kept = json.loads((config.out / "config.json").read_text())
    assert kept["spacing"] == [1, 1, 1.5]
    assert not {"template", "score_cases"} & {*kept}
    assert metrics["cases"] == len(metrics["held_out"]) == 1
    assert np.isfinite(metrics["history"][-1]["loss"])
    model = models.load(config.out / "weights.safetensors")
    assert model.metadata["modalities"] == ["flair", "t1"]
    assert model.metadata["orientation"] == "RAS"
    assert model.metadata["spacing"] == [1, 1, 1.5]
    changed = shutil.copytree(cohort, tmp_path / "changed")
    shutil.copy(changed / "patient0/first/t1.nii.gz", changed / "patient2/first/t1.nii.gz")
    with pytest.raises(InputError, match="another scans"):
        training.train(dataclasses.replace(config, data=changed))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prefixes": ()}, "needs --prefixes"),
        ({"data": None}, "`prefixes` is for scans"),
        ({"truth_prefix": "lesions"}, "lacks the volume 'lesions'"),
        ({"held_out_share": 0.9}, "none is left to train on"),
        ({"crop": 9}, "multiples of 2"),
        ({"truth_threshold": 2.0}, "no scan that is trained on has a lesion"),
        ({"positives": 0.0}, "`positives` is 0.0"),
        ({"truth_labels": "classes", "truth_classes": (4,)}, "no scan that is trained on has"),
        ({"score_cases": 2}, "`score_cases` is for planted lesions"),
        ({"batch": 3}, "2 are trained on; give --batch 2"),
        ({"crop": 514}, "`crop` is 514; give at most 512"),
    ],
)
def test_scans_that_cannot_be_trained_on_are_refused(training, cohort, change, said, tmp_path):
    config = of_scans(training, cohort, **{"out": tmp_path / "run", **change})
    with pytest.raises(InputError, match=said):
        training.train(config)
    assert not config.out.exists()


def test_scans_that_are_not_right_are_told_before_the_run(training, cohort, tmp_path):
    """Each fault lies in one file of the patient that is held out."""
    nibabel = pytest.importorskip("nibabel")
    from train.lesions.scans import read_scans

    usual = read_scans(of_scans(training, cohort))
    image, mask = (
        nibabel.load(cohort / usual.patients[0] / f"first/{name}.nii.gz") for name in ("t1", "mask")
    )
    values = np.asarray(mask.dataobj)
    broken = nibabel.Nifti1Image(np.where(values, np.nan, image.get_fdata()), image.affine)
    ninth = np.cumsum(values).reshape(values.shape) * values == 9
    unknown = nibabel.Nifti1Image(np.where(ninth, 255, values).astype(np.uint8), mask.affine)
    negative = nibabel.Nifti1Image(np.where(ninth, -1, values.astype(np.int8)), mask.affine)
    nothing = nibabel.Nifti1Image(0 * values, mask.affine)
    classes = {"truth_labels": "classes"}
    for number, (name, content, change, said) in enumerate(
        (
            ("t1", "cut", {}, "t1.nii.gz' cannot be read"),
            ("t1", broken, {}, "t1.nii.gz' is NaN or infinite in"),
            ("mask", nothing, {}, "no scan that is held out has a lesion"),
            ("mask", unknown, classes, "255 stands beside smaller labels.*--truth-classes"),
            ("mask", unknown, {}, "if 255 means unknown, name .*--truth-classes, or change it in"),
            ("mask", unknown, {"truth_labels": "instances"}, "may mean unknown; change it in the"),
            ("mask", negative, {}, "the least is -1; if it means unknown, change it in the file"),
            ("mask", unknown, {**classes, "truth_classes": (1, 255)}, None),
            ("*", None, {}, "does not say where its axes lead"),
        )
    ):
        folder = shutil.copytree(cohort, tmp_path / str(number))
        for path in (folder / usual.patients[0] / "first").glob(f"{name}.nii.gz"):
            if content == "cut":
                path.write_bytes(path.read_bytes()[:-200])
                continue
            written = content or nibabel.load(path)
            written = nibabel.Nifti1Image(
                np.asarray(written.dataobj), written.affine, written.header
            )
            if content is None:
                written.set_sform(None, 0)
                written.set_qform(None, 0)
            nibabel.save(written, path)
        config = of_scans(training, folder, out=tmp_path / "run", **change)
        if said is None:
            assert read_scans(config).patients == usual.patients
            continue
        with pytest.raises(InputError, match=said):
            training.train(config)
        assert not config.out.exists()
    # Contents alone do not tell who is held out.
    folder = shutil.copytree(cohort, tmp_path / "renamed")
    (folder / usual.patients[0]).rename(folder / f"{usual.patients[0]}a")
    assert read_scans(of_scans(training, folder)).sha256 != usual.sha256
    assert (
        read_scans(of_scans(training, shutil.copytree(cohort, tmp_path / "same"))).sha256
        == usual.sha256
    )


def test_scans_of_other_grids_are_refused(training, cohort, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    folder = shutil.copytree(cohort, tmp_path / "cohort")
    (folder / "patient1/first/mask.nii.gz").unlink()
    with pytest.raises(InputError, match=r"patient1.*lacks the volume 'mask'"):
        training.train(of_scans(training, folder, out=tmp_path / "run"))
    for path in (folder / "patient1/first").iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.dataobj, np.diag([2.0, 2, 2, 1])), path)
    shutil.copy(cohort / "patient1/first/mask.nii.gz", folder / "patient1/first/mask.nii.gz")
    with pytest.raises(InputError, match="voxels of 2 x 2 x 2 mm"):
        training.train(of_scans(training, folder, out=tmp_path / "run"))
    with pytest.raises(InputError, match=r"mask.nii.gz' has another grid"):
        training.train(of_scans(training, folder, out=tmp_path / "run", spacing=2.0))


# --- the study -------------------------------------------------------------------------------


def test_the_study_measures_where_saliency_lies(brain):
    from train.lesions import study as script

    case = LesionCases(brain, QUIET)[0]
    instance = measured(case.lesions).instances[0]
    mask = case.lesions == instance.label

    def explain(x, mask, aggregation):
        """FLAIR: 3 inside; T1: 1 inside and -1 everywhere else."""
        inside = mask.astype(np.float32)
        return np.stack([3 * inside, np.where(mask, 1, -1)], axis=-1)

    def row(group):
        found = dataclasses.replace(instance, group=group)
        return script._row(
            case.image, np.full(mask.shape, 0.5), case, mask, found, (2.0, 2.0, 2.0), explain
        )

    found = row("TP")
    assert found["lesions"] == [instance.label]
    assert found["flair_only_voxels"] == found["t1_only_voxels"] == 0
    assert found["mean"]["flair"]["positive"] == [1, 0, 0]
    assert found["mean"]["flair"]["negative_sum"] == 0
    np.testing.assert_allclose(sum(found["max"]["t1"]["negative"]), 1)
    assert found["max"]["t1"]["negative"][1] == found["near_voxels"] / (mask.size - mask.sum())
    cases = [{"dice": 1.0, "lesions": 1, "explained_lesions": 1, "TP": 1, "FP": 1, "FN": 0}]
    rows = [found | {"first": True}, row("FP") | {"first": False}]
    told = script.summary({"cases": cases, "rows": rows})
    assert told["groups"] == {"TP": 1, "FP": 1, "FN": 0}
    assert told["missed"] == 0
    assert told["mean"]["flair_peak_larger"] == 1
    assert told["mean"]["flair"]["peaks"] == {"TP": [3, 3, 3], "FP": [3, 3, 3], "FN": None}
    against = told["mean"]["flair"]["against"]
    assert against["FP"]["above"] == 0.5
    assert against["FP"]["pairs"] == 1
    assert against["FN"] is None
    text = script.as_text({"summary": told, "rows": rows, "settings": {}})
    again = json.loads(text)
    assert len(again["rows"]) == 2
    assert again["rows"][0]["iou"] is None
    assert again["summary"]["mean"]["flair"]["density"] is None


# --- the detector ----------------------------------------------------------------------------


def write_table(path, told=1.0, groups="TP FP"):
    """Ten scans of two hits and a false positive, of which one feature tells."""
    rng = np.random.default_rng(0)
    lines = ["scan,instance,group,voxels,method,tap,modality,mean,texture"]
    for scan, (number, group) in itertools.product(range(10), enumerate(("TP", "FP", "TP"), 1)):
        if group in groups:
            start = f"scan{scan},{number},{group},{9 if scan < 8 else 90}"
            mean = rng.normal() + 4 * told * (group == "FP")
            lines.append(f"{start},image,,flair,{1e6 * mean},{rng.normal()}")
            lines.append(f'{start},smooth_grad,input,flair,{rng.normal()},""')
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_detector_is_held_to_scans_that_it_has_not_seen(tmp_path, monkeypatch):
    from sklearn.preprocessing import StandardScaler

    from train.lesions import detector

    seen, fit = [], StandardScaler.fit
    monkeypatch.setattr(
        StandardScaler, "fit", lambda self, x, *a: seen.append(len(x)) or fit(self, x)
    )
    monkeypatch.setattr(
        StandardScaler, "fit_transform", lambda self, x, *a, **b: self.fit(x).transform(x)
    )
    path = write_table(tmp_path / "features.csv")
    config = detector.Detector(path, tmp_path / "out.json")
    found = detector.detect(config)
    assert found == json.loads(config.out.read_text())
    assert (found["hits"], found["false_positives"], found["scans"]) == (20, 10, 10)
    of = found["detectors"]
    assert of["image and map"]["auc"] > 0.95
    assert 0.1 < of["map"]["auc"] < 0.9  # They know nothing.
    assert of["voxels"]["auc"] < 0.6  # Nor does the size.
    assert seen == [24] * 20  # Of 30, for each detector: never those that are held out.
    assert of["image and map"]["features"] == [
        f"{kind}.{name}"
        for kind in ("image.flair", "smooth_grad.input.flair")
        for name in ("mean", "texture")
    ]
    table = detector.read_features(path)
    assert np.isnan(table.values[:, 3]).all()
    probability, _ = detector.cross_validated(table, 5)
    assert np.isfinite(probability).all()
    assert of["map"]["features"] == of["image and map"]["features"][2:]
    small = detector.detect(dataclasses.replace(config, max_voxels=9))
    assert (small["hits"], small["false_positives"], small["scans"]) == (16, 8, 8)
    assert {each["voxels"] for each in small["instances"]} == {9}
    assert small["detectors"]["voxels"]["auc"] == 0.5


def test_features_that_cannot_be_learned_from_are_one_line(tmp_path):
    from train.lesions import detector

    for groups, said in (
        ("TP", "0 false positives and 20 hits"),
        ("FP", "10 false positives and 0"),
    ):
        path = write_table(tmp_path / "one.csv", groups=groups)
        with pytest.raises(InputError, match=said):
            detector.read_features(path)
    path = write_table(tmp_path / "features.csv")
    with pytest.raises(InputError, match="11 folds need .* 10 scans, 20 hits, 10 false"):
        detector.detect(detector.Detector(path, tmp_path / "out.json", folds=11))
    with pytest.raises(InputError, match="0 false positives and 0 hits"):
        detector.read_features(path, max_voxels=1)
    text = path.read_text()
    mean = text.splitlines()[1].split(",")[-2]
    for changed, said in (
        (text.replace(mean, "x"), "no number"),
        (text.replace(mean, "-inf"), r"has mean -inf; give numbers of at most 1e\+100"),
        (text.replace(",9,", ",x,"), "has voxels 'x'"),
        (text.replace("scan0,1,", "scan0,one,"), "instance 'one'; expected its number"),
        (text + "s" * 200_000, "is not a table: field larger"),
        (text.replace("mean,texture", "mean,mean"), "two columns of one name"),
        (re.sub(r"flair,.*", "flair,,", text), "no value of any feature"),
        ("a,b\n1,2\n", "no column 'scan'"),
    ):
        path.write_text(changed)
        with pytest.raises(InputError, match=said):
            detector.read_features(path)
    # All false positives lie in one scan: whatever is learned without it knows none.
    values = np.zeros((12, 1))
    one = detector.Table(
        [*"abcdefgggggg"], ["1"] * 12, np.full(12, 9), np.arange(12) >= 6, ["mean"], values
    )
    with pytest.raises(InputError, match="one of them holds all false positives"):
        detector.cross_validated(one, 5)
    with pytest.raises(InputError, match="`folds` is 1"):
        detector.detect(detector.Detector(path, folds=1))


def test_planted_lesions_are_a_cohort(brain, tmp_path):
    from segcam_jax.data import nifti, scans
    from train.lesions.cohort import Cohort, write_cases

    told = Cohort(tmp_path / "cohort", cases=2)
    write_cases(told, brain)
    found = scans.find_scans(told.out, ("flair", "t1"), truth="mask")
    assert [each.name for each in found] == ["case000-planted", "case001-planted"]
    case = LesionCases(brain, LesionConfig(split="test", cases=2))[1]
    np.testing.assert_array_equal(nifti.read_volume(found[1].files[0]).values, case.image[..., 0])
    np.testing.assert_array_equal(nifti.read_volume(found[1].truth).values, case.lesions)
    with pytest.raises(InputError, match="is there already"):
        told.check()
