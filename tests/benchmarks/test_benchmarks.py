"""The benchmark: its harness at a tiny size, its arithmetic, and FLOPs that must not grow."""

import dataclasses
import json
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segcam_jax as segcam
from benchmarks import (
    __main__ as command,
    cost,
    faithfulness,
    jax_rows,
    measure,
    metric_speed,
    planted_bias,
    report,
    results,
    run,
    smooth_rows,
    tables,
    torch_speed,
)
from benchmarks.peers import rows as peers
from benchmarks.rows import Ready, Row
from benchmarks.studies import CLASS, FirstChannels, model_of, study
from benchmarks.workloads import ENGINE, JAX_LOOP, NAIVE_MAP, PGC, WORKLOADS, chosen
from segcam_jax import InputError, models
from segcam_jax.data import samples
from segcam_jax.engine import NAIVE, Execution
from segcam_jax.engine.plan import Step
from segcam_jax.masks import ChannelMasks
from segcam_jax.models.unet import UNet, UNetConfig, save_unet


@pytest.fixture(autouse=True, scope="module")
def _flax_promotes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# FLOPs, from shapes alone: no weights, nothing compiled


@pytest.fixture(scope="module")
def classic():
    """The U-Net of P1 as shapes: split at the bottleneck, parameters, image."""
    network = WORKLOADS["P1"].networks["full"]
    fn, params = segcam.from_nnx(model_of(network, abstract=True))
    params, x = cost.shapes(params), jax.ShapeDtypeStruct(network.image, jnp.float32)
    return segcam.split(fn, "bottleneck", params, x), fn, params, x


def decode_flops(classic):
    split, _, params, x = classic
    return cost.flops(split.decode, *jax.eval_shape(split.encode, params, x))


def per_channel(classic, target, execution=Execution()):
    split, _, params, x = classic
    masks = ChannelMasks(split.activation.shape[-1])
    return cost.flops_per_ablation(split, params, x, target, masks, execution)


def box(side, space=(256, 256)):
    mask = np.zeros(space, bool)
    mask[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in space)] = True
    return segcam.targets.region(CLASS, mask)


def test_flops_of_the_network(classic):
    _, fn, params, x = classic
    assert cost.flops(fn, params, x) == pytest.approx(94.3e9, rel=1e-2)
    assert decode_flops(classic) == pytest.approx(61.3e9, rel=1e-2)
    assert per_channel(classic, segcam.targets.whole_image(CLASS), NAIVE) == pytest.approx(
        61.3e9, rel=1e-2
    )


def test_flops_of_a_channel_for_the_whole_image(classic):
    whole = segcam.targets.whole_image(CLASS)
    assert per_channel(classic, whole, dataclasses.replace(NAIVE, difference=True)) <= 43e9
    assert per_channel(classic, whole) <= 43e9


@pytest.mark.parametrize(
    ("side", "share"),
    [
        (32, 0.06),
        pytest.param(1, 0.02, marks=pytest.mark.slow),
        pytest.param(64, 0.13, marks=pytest.mark.slow),
    ],
)
def test_flops_of_a_channel_for_a_window(classic, side, share):
    assert per_channel(classic, box(side)) <= share * decode_flops(classic)


def test_flops_of_a_closed_form_do_not_depend_on_the_number_of_channels():
    base = study(WORKLOADS["P3"], "tiny")
    arguments = (base.split, base.params, base.x, base.target, base.masks(base.total))
    assert cost.flops_per_ablation(*arguments, Execution()) == 0
    assert cost.flops_per_ablation(*arguments, NAIVE) > 0


# Workloads and rows


def test_workloads_are_chosen_by_key():
    assert chosen(("P3", "P1")) == ["P1", "P3"]
    assert chosen(())[:11] == [f"P{n}" for n in range(1, 12)]
    assert chosen((), "gpu")[:3] == ["P1", "P3", "P2"]
    assert chosen(("P4", "P9"), "gpu") == ["P9", "P4"]
    with pytest.raises(InputError, match="unknown workload 'P13'; choose from P"):
        chosen(("P13",))


def test_every_switch_of_the_engine_is_a_row():
    names, executions = zip(*jax_rows.executions(), strict=True)
    assert names[0] == NAIVE_MAP
    assert executions[0] == NAIVE
    assert executions[-1] == Execution()
    assert len(set(executions)) == len(executions) == 1 + len(jax_rows.switches())
    assert set(jax_rows.SWITCHES) <= set(jax_rows.switches()), "a switch that is no more"


@pytest.mark.parametrize("key", ["P1", "P7"])
def test_the_first_masks_are_those_of_all(key):
    base = study(WORKLOADS[key], "tiny")
    some, every = base.masks(3), base.masks(base.total)
    assert (len(some), len(every)) == (3, base.total)
    for index in range(3):
        np.testing.assert_array_equal(some(jnp.int32(index)), every(jnp.int32(index)))
    values = jax.random.normal(jax.random.key(0), base.split.activation.shape)
    np.testing.assert_array_equal(some.removed(values), every.removed(values)[:3])
    assert isinstance(some, FirstChannels) == (key == "P1")


@pytest.mark.parametrize("key", ["P3", pytest.param("P5", marks=pytest.mark.slow), "P6"])
def test_rows_agree_with_brute_force_in_float64(key):
    base = study(WORKLOADS[key], "tiny")
    reference = measure.reference(base, jax_rows.LoopRow())
    assert reference.values.dtype == np.float64
    count = len(reference.values)
    assert count == min(measure.SAMPLE[base.x.ndim - 1], base.total)
    sparing = measure.reference(base, jax_rows.brute_force()).values
    np.testing.assert_allclose(sparing, reference.values, rtol=0, atol=1e-9)
    every = list(jax_rows.executions())
    for (name, execution), bound in zip((every[0], every[-1]), (1e-3, 1e-5), strict=True):
        row = jax_rows.EngineRow(name=name, execution=execution)
        found = reference.errors(row.ready(base, count).run())
        assert found["compared"] == count
        assert found["error"] < bound, name


@pytest.mark.parametrize("key", ["P9", pytest.param("P10", marks=pytest.mark.slow)])
def test_smoothed_gradients_agree_with_brute_force(key):
    base = study(WORKLOADS[key], "tiny")
    reference = measure.reference(base, smooth_rows.GradientsRow())
    ready = smooth_rows.SmoothGradRow(name=ENGINE, execution=Execution()).ready(base, base.total)
    assert ready.count == base.total == {"P9": 2 * 4, "P10": 3}[key]
    assert ready.run().shape == (1, 4, 4, 4, 2)
    assert ready.check is not None
    found = ready.check()
    assert reference.errors(found)["error"] < 1e-5
    assert np.abs(found).max() > 1e-3


def test_a_projection_scales_what_is_not_fixed():
    record = {"count": 8, "total": 32, "flops_each": 6.0, "fixed_seconds": 1.0}
    found = measure.summary(record, [5.0, 3.0, 4.0])
    assert found["total_seconds"] == 1 + 3 * 4
    assert found["total_spread"] == [1 + 2 * 4, 1 + 4 * 4]
    assert found["flops_per_second"] == 8 * 6 / 4


def test_the_pace_sets_how_much_is_measured():
    base = study(WORKLOADS["P1"], "tiny")
    base = dataclasses.replace(base, total=1024)
    row, pace = Row(name="a", group="peer", step=32), measure.Pace({"peer": 100.0})
    assert pace.count(row, 1.0, base, 1.0) == 96
    assert pace.count(row, 1.0, base, 0.01) == 32
    assert pace.count(row, 1.0, base, 7.0) == 1024
    assert pace.count(row, 0.0, base, 0.01) == 1024
    assert pace.count(dataclasses.replace(row, least=2), 1.0, base, 0.01) == 2
    assert pace.count(dataclasses.replace(row, least=2), 1.0, base, 0.2) == 20
    assert pace.count(dataclasses.replace(row, most=64), 1.0, base, 7.0) == 64


def test_rows_take_turns():
    log = []
    base = study(WORKLOADS["P1"], "tiny")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Logged(Row):
        def flops_each(self, study):
            return 1.0

        def ready(self, study, count):
            return Ready(lambda: log.append(self.name) or np.ones(count), count)

    ones = measure.Reference(np.ones(1))
    rows = [
        measure.prepare(
            Logged(name=name, group="jax"), base, measure.Pace({}), ones, budget=1e-9, full=True
        )
        for name in "ab"
    ]
    assert [timed.row.name for timed in measure.in_turns(rows)] == ["a", "b"] * measure.LEAST_TURNS
    assert log == ["a", "b", *["a", "b"] * measure.LEAST_TURNS]
    assert rows[0].record["turns"] == measure.LEAST_TURNS
    assert not rows[0].record["projected"]
    assert rows[0].record["error"] == 0


def test_a_budget_deals_out_what_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(run.time, "perf_counter", lambda: clock[0])
    left = run.Budget(60.0, {"a": 1, "b": 1, "c": 1})
    assert left.seconds("a") == 20
    clock[0] = 10.0
    left.set_aside(30.0)
    assert left.seconds("b") == 10
    clock[0] = 31.0
    assert left.seconds("c") == 0


def test_what_is_written_by_hand_and_the_engine_come_first():
    names = (PGC, "segcam_jax, + windows", ENGINE, NAIVE_MAP)
    groups = ("peer", "engine", "engine", "engine")
    rows = [Row(name=n, group=g) for n, g in zip(names, groups, strict=True)]
    first, last = [NAIVE_MAP, ENGINE], [PGC, "segcam_jax, + windows"]
    for in_3d, order in ((False, first), (True, first[::-1])):
        ranked = sorted(rows, key=lambda row: run._rank(row, ENGINE, in_3d))
        assert [row.name for row in ranked] == order + last


# The command


def options(path, **changes):
    given = {"suite": "cpu", "size": "tiny", "seconds": 200.0, "full": True, "again": False}
    return run.Options(**{**given, "threads": None, "path": path, **changes})


@pytest.fixture
def no_torch(monkeypatch):
    """Also fixes the digest of the code: a file saved meanwhile must not end the test."""
    monkeypatch.setattr(results, "code", lambda: "the same")

    def missing(*_):
        raise run.Unavailable("torch is not installed")

    monkeypatch.setattr(peers, "layout", missing)


@pytest.fixture
def one_engine_row(monkeypatch):
    row = jax_rows.EngineRow(name=ENGINE, execution=Execution())
    monkeypatch.setattr(run, "engine_rows", lambda _: [(row, None)])


@pytest.mark.slow
def test_a_tiny_run_without_torch(tmp_path, no_torch, capsys):
    path = tmp_path / "cpu.json"
    found = run.run(options(path), ["P1"])
    assert json.loads(path.read_text())["workloads"].keys() == {"P1"}
    record = found["workloads"]["P1"]
    assert record["complete"]
    assert record["environment"]["versions"]["jax"]
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["PyTorch rows"]["reason"] == "torch is not installed"
    measured = [row for row in rows.values() if row["status"] == "measured"]
    assert {JAX_LOOP, NAIVE_MAP, record["engine"]} <= {row["name"] for row in measured}
    for row in measured:
        assert row["turns"] >= 2
        assert row["error"] < 1e-3
        assert {"total_seconds", "total_spread", "peak_bytes", "compile_seconds"} <= row.keys()

    # Finished by this code: the second run measures nothing, another code measures anew.
    capsys.readouterr()
    assert run.run(options(path), ["P1"])["workloads"]["P1"]["rows"] == results._plain(
        record["rows"]
    )
    assert "P1: finished already" in capsys.readouterr().err
    assert not results.is_finished(record, {"code": "other", "size": "tiny", "full": True})


def test_an_interrupted_run_keeps_its_rows(tmp_path, no_torch, one_engine_row, monkeypatch):
    path = tmp_path / "cpu.json"
    in_turns = measure.in_turns

    def interrupted(rows):
        for number, timed in enumerate(in_turns(rows[:2])):
            if number == 1:
                raise KeyboardInterrupt
            yield timed

    monkeypatch.setattr(measure, "in_turns", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(options(path), ["P1"])
    record = json.loads(path.read_text())["workloads"]["P1"]
    assert not record["complete"]
    assert [row["turns"] for row in record["rows"] if row["status"] == "measured"] == [1, 1]
    assert not results.is_finished(record, record)


def test_a_row_that_fails_does_not_end_the_run(tmp_path, no_torch, one_engine_row, monkeypatch):
    ready = jax_rows.EngineRow.ready

    def broken(self, study, count):
        if self.name == ENGINE:
            raise RuntimeError("out of\nluck")
        return ready(self, study, count)

    monkeypatch.setattr(jax_rows.EngineRow, "ready", broken)
    record = run.run(options(tmp_path / "cpu.json"), ["P1"])["workloads"]["P1"]
    reasons = {row.get("reason") for row in record["rows"] if row["status"] == "failed"}
    assert reasons == {"RuntimeError: out of luck"}
    assert "RuntimeError: out of luck" in tables.rows({"workloads": {"P1": record}})


@pytest.mark.slow
def test_many_targets_are_measured_beside_single_studies(tmp_path):
    found = run.run(options(tmp_path / "cpu.json"), ["P12"])["workloads"]["P12"]
    assert found["complete"]
    assert [row["targets"] for row in found["rows"]] == [4, 4]
    assert all(row["difference"] < 1e-5 for row in found["rows"])
    assert found["click_seconds"].keys() == {"pixel", "whole image"}
    said = tables.rows({"workloads": {"P12": found}})
    assert "4 classes of the whole image" in said
    assert "A click on an atlas of all channels" in said
    assert len(tables.overview({"workloads": {"P12": found}}).splitlines()) == 4


def test_faults_are_one_line(capsys):
    assert command.main(["run", "--only", "P99"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: error: unknown workload 'P99'")


def test_the_gpu_suite_needs_one(tmp_path):
    with pytest.raises(InputError, match="finds no accelerator"):
        run.run(options(tmp_path / "gpu.json", suite="gpu"), ["P1"])


def test_the_gpu_suite_needs_the_cpu_as_well(tmp_path, monkeypatch):
    """With JAX_PLATFORMS=cuda there is none: JAX says of it what it says here of an accelerator."""
    local_devices = jax.local_devices
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda backend: local_devices(backend="tpu"))
    with pytest.raises(InputError, match="='cuda' leaves out; set JAX_PLATFORMS=cuda,cpu"):
        run.run(options(tmp_path / "gpu.json", suite="gpu"), ["P1"])


# The report


def a_record(**changes):
    common = {"group": "peer", "status": "measured", "exact": True, "flops_each": 4e9}
    slow = {"name": PGC, "count": 32, "total": 1024, "projected": True, **common}
    naive = {"name": NAIVE_MAP, "count": 1024, "total": 1024, "projected": False, **common}
    fast = {"name": f"{ENGINE}, + windows", "count": 1024, "total": 1024, "projected": False}
    slow.update(measure.summary(slow, [25.0, 26.0]), error=2e-4, setting="batch 32")
    naive.update(measure.summary(naive, [80.0]), error=1e-5)
    fast.update({**common, "group": "engine"}, error=1e-7, compile_seconds=3.0)
    fast.update(measure.summary(fast, [8.0, 8.0]), peak_bytes=10**9)
    rows = [slow, naive, fast, measure.same_program("last", "engine", fast["name"])]
    environment = {"processor": "a CPU", "accelerator": None, "cores": 2, "versions": {}}
    about = {"title": "t", "engine": fast["name"], "environment": environment}
    return {**about, "rows": rows, "complete": True, "commit": "c", **changes}


def test_the_tables_say_what_is_projected_and_what_bounds_it():
    rates = {"jax": {"best": 1024e9}}
    found = {"workloads": {"P1": a_record(), "P2": a_record(rates=rates)}, "curves": {}}
    lines = tables.overview(found).splitlines()
    assert lines[2] == (
        "| P1 | t | pytorch-grad-cam: ~816 s (32 of 1024) | JAX, naive one-jit map: 80 s | 8 s"
        " | 102x | 10x | 4 s (50%) | 2e-04 | 1e-05 | 1e-07 |"
    )
    assert len(lines) == 4
    rows = tables.rows({"workloads": {"P1": a_record()}})
    assert "32 of 1024, projected" in rows
    assert "| last | the same program as “segcam_jax, + windows” |" in rows
    assert tables.rows({"workloads": {}}) == tables.overview({"workloads": {}})


def test_the_first_page_shows_errors_once_all_are_measured():
    found = {"workloads": {"P1": a_record()}}
    assert tables.first_page(found).splitlines()[2] == "| P1: t | 102x | 10x | 1e-05 | 1e-07 |"
    found["workloads"]["P1"]["rows"][2]["largest"] = 10.0  # Of the study, not of the few compared.
    assert tables.first_page(found).splitlines()[2] == "| P1: t | 102x | 10x | 1e-06 | 1e-08 |"
    del found["workloads"]["P1"]["rows"][2]["error"]
    assert tables.first_page(found).splitlines()[2] == "| P1: t | 102x | 10x |"


def test_plots_are_written_for_what_there_is(tmp_path):
    from benchmarks import plots

    points = [{"side": n, "count": 2, "seconds": [0.1 * n], "flops_each": n} for n in (1, 8)]
    found = {"workloads": {"P1": a_record()}, "curves": {"windows": {"points": points}}}
    written = {path.name for path in plots.write(found, tmp_path, "cpu")}
    assert written == {"cpu_windows.png", "cpu_flops.png", "cpu_rows.png"}
    assert all((tmp_path / name).read_bytes()[1:4] == b"PNG" for name in written)


def test_pages_hold_the_tables_of_the_results():
    for page in report.PAGES:
        assert report.filled(page.read_text()) == page.read_text()


@pytest.mark.parametrize("what", ["channels", "positions"])
def test_deletion_at_a_tap_is_that_of_whole_forwards(what, monkeypatch, tmp_path):
    monkeypatch.setattr(metric_speed, "_TURNS", 1)
    row = metric_speed._at_tap(what, "tiny")
    assert row["apart"]["scores"] < 1e-5
    (tmp_path / "speed.json").write_text(json.dumps({"P16": {"rows": [row]}}))
    monkeypatch.setattr(metric_speed, "OUT", tmp_path / "speed.json")
    assert f"| P16 | deletion by {what}" in metric_speed.table()


def test_tables_of_faithfulness_by_hand(monkeypatch, tmp_path):
    common = {"low": 0.0, "high": 1.0, "images": 2, "undefined": 0, "failed": 0, "compared": 2}
    common |= {"wins": None, "worst": None}

    def cards(metric, *means):
        places = (("grad_cam", "a"), ("layer_cam", "a"), ("random map", "control"))
        known = [
            {"metric": metric, "method": method, "tap": tap, "mean": mean, "place": place, **common}
            for place, ((method, tap), mean) in enumerate(zip(places, means, strict=True), 1)
        ]
        return {"higher_is_better": metric == "insertion", "explained": 2, "cards": known}

    found = {"deletion": cards("deletion", 0.1, 0.2, 0.3)}
    found["insertion"] = cards("insertion", 0.5, 0.75, None)
    (tmp_path / "known.json").write_text(json.dumps({"biased": {"metrics": found}}))
    monkeypatch.setattr(faithfulness, "OUT", tmp_path / "known.json")
    assert faithfulness.table("biased").splitlines() == [
        "| method | tap | deletion ↓ | insertion ↑ |",
        "|---|---|---|---|",
        "| `grad_cam` | `a` | 0.1 (1) | 0.5 (1) |",
        "| `layer_cam` | `a` | 0.2 (2) | 0.75 (2) |",
        "| random map | - | 0.3 (3) | - |",
    ]
    # Deletion prefers the former, insertion the latter.
    assert "| deletion |  | -1.00 |" in faithfulness.agreement("biased")
    assert faithfulness.table("lesions") == "Not measured yet."
    faithfulness.draw(tmp_path)
    assert (tmp_path / "faithfulness_biased.png").read_bytes()[1:4] == b"PNG"


def test_faithfulness_is_known_of_the_same_code_and_options(monkeypatch, tmp_path):
    class Scored:
        def __init__(self, run, measures):
            asked.append(measures[0].metric.name)
            self.scored = SimpleNamespace(shards={0: [run]})

        compute = staticmethod(lambda report: SimpleNamespace(seconds=1.0))
        table = staticmethod(list)

    def measured(known=(), images=2):
        asked.clear()
        study = faithfulness.Faithfulness("", lambda *_: "run", images, 1, by)
        *_, found = [known, *faithfulness.measured(study, tmp_path, dict(known))]
        return json.loads(json.dumps(found)), list(asked)

    asked = []
    by = {name: faithfulness.INPUT[name] for name in ("deletion", "ROAD")}
    every = ["deletion", "road", "parameter_randomisation"]
    monkeypatch.setattr(faithfulness, "Scoring", Scored)
    monkeypatch.setattr(faithfulness.report, "cards", lambda run, table: [])
    monkeypatch.setattr(results, "code", lambda: "first")
    monkeypatch.setattr(results, "commit", lambda: "then")
    known, computed = measured()
    assert computed == every
    monkeypatch.setattr(results, "commit", lambda: "now")
    assert measured(known) == (known, [])
    by["ROAD"] = faithfulness._measure("road", percentiles=(50,))
    found, computed = measured(known)
    assert computed == ["road"]
    assert {name: each["commit"] for name, each in found.items()} == {
        "deletion": "then",
        "ROAD": "now",
        "randomisation": "then",
    }
    assert found["ROAD"]["options"] == {"percentiles": [50]}
    assert measured(found, images=1)[1] == ["deletion", "road"]
    monkeypatch.setattr(results, "code", lambda: "second")
    assert measured(found)[1] == every


def test_a_run_of_lesions_is_compared_with_what_is_asked(monkeypatch, tmp_path):
    """By the command itself, whatever is in the folder; other cases are other scans."""
    drawn, lines, codes = [], [], [0, 0, 2]
    monkeypatch.setattr(faithfulness, "_scans", lambda folder, count: drawn.append(folder))
    monkeypatch.setattr(faithfulness, "open_scans", lambda folder: folder)
    monkeypatch.setattr(
        faithfulness.cli, "main", lambda line: lines.append(line) or codes[len(lines) - 1]
    )
    for cases in (6, 8):
        monkeypatch.setattr(faithfulness, "_CASES", cases)
        assert faithfulness._of_lesions(tmp_path, 1) == tmp_path / "run"
    with pytest.raises(SystemExit, match="2"):
        faithfulness._of_lesions(tmp_path, 1)
    names = ["cases-5-to-5", "cases-7-to-7", "cases-7-to-7"]
    assert [line[2] for line in lines] == [f"{tmp_path / name}" for name in names]
    assert len(drawn) == 2


def test_a_drawing_that_was_killed_is_drawn_again(tmp_path):
    def draw(folder, count):
        for index in range(count):
            (folder / f"{index}").touch()
            if killed:
                raise KeyboardInterrupt

    killed = True
    with pytest.raises(KeyboardInterrupt):
        faithfulness._drawn(draw, tmp_path / "work" / "images", 2)
    killed = False
    for count in (2, 3):  # What is there stays.
        faithfulness._drawn(draw, tmp_path / "work" / "images", count)
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["images"]
        assert sorted(path.name for path in (tmp_path / "work" / "images").iterdir()) == ["0", "1"]


def test_operations_against_other_ways_by_hand():
    steps = [Step(None, "", flops, 1.0, 10) for flops in (100, 60, 20, 3)]
    plan = SimpleNamespace(steps=steps, network_flops=100, decode_flops=60, once_flops=50)
    # 10 whole forwards, or 40 once and 10 of what follows; ours are 10 of 3, and 50 once.
    assert torch_speed.fewer_operations(plan, ["whole", "by hand"]) == {
        "whole": 1000 / 80,
        "by hand": 640 / 80,
    }
    plan.steps = [*steps[:2], dataclasses.replace(steps[2], evaluations=None), steps[3]]
    with pytest.raises(AssertionError, match="not known"):
        torch_speed.fewer_operations(plan, ["whole"])


# PyTorch


@pytest.mark.parametrize("key", ["P1", "P3", "P4", "P5", "P6", "P7"])
@pytest.mark.filterwarnings("ignore")
def test_peers_agree_with_brute_force(key):
    pytest.importorskip("torch")
    base = study(WORKLOADS[key], "tiny")
    count = min(3, base.total)
    reference = measure.reference(base, jax_rows.LoopRow())
    for channels_last in (False, True):
        layout = peers.Layout(channels_last, {}, 1e9)
        for row in peers.peer_rows(base, layout):
            if peers.missing(row.name) is not None:
                continue
            found = reference.errors(row.ready(base, count).run())
            assert found["compared"] == count
            assert found["error"] < 1e-3, row.name


@pytest.mark.parametrize("key", ["P9", "P10", "P11"])
@pytest.mark.filterwarnings("ignore")
def test_peers_of_monai_agree_with_brute_force(key):
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    base = study(WORKLOADS[key], "tiny")
    brute_force = jax_rows.LoopRow() if key == "P11" else smooth_rows.GradientsRow()
    reference = measure.reference(base, brute_force)
    for row in peers.peer_rows(base, peers.Layout(True, {}, 1e9)):
        if peers.missing(row.name) is None:
            ready = row.ready(base, 4)
            assert np.isfinite(ready.run()).all()
            found = reference.errors((ready.check or ready.run)())
            assert found["error"] < 1e-3, row.name


@pytest.mark.parametrize("key", ["P1", "P3", "P4", "P6"])
@pytest.mark.filterwarnings("ignore")
def test_twins_are_the_same_network(key):
    torch = pytest.importorskip("torch")
    from benchmarks.peers.twins import twin

    base = study(WORKLOADS[key], "tiny")
    image = torch.from_numpy(np.moveaxis(np.asarray(base.x), -1, 0).copy())[None]
    with torch.no_grad():
        found = twin(base.network, base.tap, base.model)(image)[0].numpy()
    expected = np.asarray(base.fn(base.params, base.x))
    expected = np.moveaxis(expected, -1, 0) if expected.ndim > 1 else expected
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_eight_devices_share_the_work():
    from benchmarks import scaling

    rows = scaling.run("tiny")["rows"]
    assert [row["devices"] for row in rows] == [1, 2, 4, 8]
    assert all(row["difference"] < 1e-5 for row in rows)


def test_threads_are_limited():
    from benchmarks import timing

    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity here")
    before = os.sched_getaffinity(0)
    try:
        assert timing.limit_threads(1) == 1
    finally:
        os.sched_setaffinity(0, before)


def test_the_planted_bias_is_measured_of_both_places(tmp_path):
    """Shares of each heatmap add up to one; samples without the class are left out."""
    path = tmp_path / "digits.safetensors"
    model = UNet(UNetConfig(classes=11, depth=1, width=4), rngs=nnx.Rngs(0))
    save_unet(path, model, {"classes": [*map(str, range(10)), "background"]})
    loaded = models.load(path)
    logits = np.asarray(loaded.fn(loaded.params, samples.load().biased.image[0]))
    seen = int(np.bincount(logits.argmax(-1).ravel()).argmax())
    names, taps = ("grad_cam", "layer_cam"), ("bottleneck", "decoder1")
    found = planted_bias.measure(str(path), class_index=seen, methods=names, taps=taps, samples=3)
    found = found["bias"]
    places = [(row["method"], row["tap"]) for row in found["rows"]]
    assert places == [(name, tap) for tap in taps for name in names]
    assert found["samples"] + found["left_out"] == 3
    rows = [row for row in found["rows"] if row["samples"]]
    assert rows
    for row in rows:
        assert sum(row[key] for key in ("biased", "unbiased", "digit")) == pytest.approx(1)
