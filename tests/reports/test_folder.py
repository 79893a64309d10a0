"""Files that follow a run: which stay, and which go."""

from segcam_jax.reports.figures import Look
from segcam_jax.reports.folder import ReportFolder
from segcam_jax.runs import open_store
from segcam_jax.runs.store import Store
from tests.support import stored_runs


def test_figures_of_an_image_stay_where_another_of_its_targets_fails(tmp_path, monkeypatch):
    """Also those that an earlier command drew, where this one draws none."""
    monkeypatch.setattr(stored_runs, "TARGETS", 3)
    monkeypatch.setattr(stored_runs, "LABELS", ("background", "cat", "dog", "cow"))
    monkeypatch.setitem(stored_runs.METHODS, "input", ("grad_cam",))
    rows = stored_runs.rows(0)
    known = ("row", "item", "path", "size", "mtime_ns", "target")
    rows[2] = {name: rows[2][name] for name in known} | {"error": "nothing is explained there"}
    blocks = [b for b in stored_runs.blocks(0, one_by_one=True) if b.rows.tolist() != [2]]
    with Store.create(tmp_path / "run.zarr", stored_runs.manifest()) as store:
        store.write(0, blocks, rows)
    run = open_store(tmp_path / "run.zarr")
    targets = [f"top{rank}" for rank in (1, 2, 3)]
    folder = ReportFolder(
        tmp_path, ["image0", "image1"], targets, ["grad_cam"], Look(), figures=False
    )
    kept = [tmp_path / "image0.grad_cam.layers.png", tmp_path / "image0.top1" / "montage.png"]
    gone = tmp_path / "image0.top3" / "montage.png"
    for file in (*kept, gone):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    folder.update(run, [0], lambda count, said: None)
    assert all(file.is_file() for file in kept)
    assert not gone.exists()
    assert (tmp_path / "image0.top2" / "grad_cam.body.npy").is_file()
