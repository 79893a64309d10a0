"""Trainings that are killed, wherever they are, and resumed by the same command."""

import sys

import pytest

pytest.importorskip("grain")
pytest.importorskip("nibabel")

import nibabel

from tests.support.kills import survives
from tests.train.test_lesions import sphere
from tests.train.test_segmentation import write_folder
from tests.train.test_train_classifier import write_folders

KILLS = 4


def texture_mnist(place):
    words = "--steps 8 --batch 4 --depth 1 --width 2 --evaluate-every 1 --evaluate-samples 4"
    return [*words.split(), "--score-samples", "10", "--workers", "1"]


def classifier(place):
    words = "--model resnet18 --width 2 --size 32 --channels 1 --folds 2 --epochs 3 --batch 5"
    return [*words.split(), "--data", str(write_folders(place / "data"))]


def segmentation(place):
    words = "--channels 1 --depth 1 --width 2 --epochs 6 --batch 4 --schedule plateau"
    return [*words.split(), "--data", str(write_folder(place / "data"))]


def lesions(place):
    brain, path = sphere(), place / "t1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(brain.t1, brain.affine), path)
    words = "--steps 6 --batch 1 --channels 2 3 --strides 2 --evaluate-every 1"
    return [*words.split(), *"--evaluate-cases 1 --score-cases 1 --template".split(), str(path)]


def contents(out):
    """The bytes of a run's files; of checkpoints, whose files have names of orbax's choice, steps.

    A file of `whole_file`, or a step that orbax has not finished, would be one more.
    """
    files = [path for path in out.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    steps = out.rglob("checkpoints/*/*")
    return {path.relative_to(out): path.read_bytes() for path in files}, {
        path.relative_to(out) for path in steps
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", [texture_mnist, classifier, segmentation, lesions])
def test_kills_at_random_moments_change_no_byte(task, tmp_path):
    """The same command resumes after each, and leaves no temporary file."""
    words = [sys.executable, "-m", f"train.{task.__name__}", *task(tmp_path), "--out"]
    survives(words, tmp_path, contents, kills=KILLS)
