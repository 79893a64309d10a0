"""The loop of every training: steps, evaluations, checkpoints, a clean stop, progress.

A task says what is trained, on what and by which measure; the loop is the same for all:

    training = Training(network=steps.Network(model), optimizer=..., loss=..., ...)
    with watched() as watch:
        fitted = fit(training, folder, watch)    # None if it was asked to stop

A run can be stopped or killed at any moment. The data of a step are a function of the step, and the
state is all that changes, so that a resumed run ends with the same weights, bit for bit on the same
machine.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segcam_jax.extras import require
from segcam_jax.types import InputError
from train import reports, steps
from train.steps import TrainState

Batch = tuple[np.ndarray, np.ndarray]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Training:
    """What the loop must know of a task.

    Attributes:
        title: what progress calls it.
        optimizer: what makes updates of gradients; equal settings must give the same object.
        loss: a number, of logits and labels.
        batches: images and labels of all steps from a step on, counted from 0.
        evaluated: after which steps held-out data are scored and the state is saved.
        evaluate: the scores of a state.
        merit: of a row of scores; the state with the highest is the best, the first of equals.
        told: the scores that progress shows, and what it calls them.
        adjusted: a state after an evaluation, with another rate, by all scores so far; None leaves
            states as they are.
    """

    title: str
    network: steps.Network
    optimizer: optax.GradientTransformation
    loss: Callable[[Array, Array], Array]
    batches: Callable[[int], Iterator[Batch]]
    steps: int
    evaluated: Collection[int]
    evaluate: Callable[[TrainState], Row]
    merit: Callable[[Row], Any]
    told: dict[str, str]
    adjusted: Callable[[TrainState, list[Row]], TrainState] | None = None


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a training came to.

    Attributes:
        state: the best.
        row: its scores.
        history: the scores of all evaluated states.
    """

    state: TrainState
    row: Row
    history: list[Row]


def batches(
    source: Any, *, batch: int, start: int, pair: Callable | None = None, workers: int = 0
) -> Iterator[Batch]:
    """The batches of a random-access source from a step on, read ahead.

    Args:
        source: items by index.
        batch: items a step.
        start: the first step, counted from 0.
        pair: makes image and label of an item; None if it is both.
        workers: processes that make items; 0 makes them in a thread.
    """
    grain = require("grain", extra="train")
    items = grain.MapDataset.source(source)
    stream = (items if pair is None else items.map(pair)).batch(batch)[start:]
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8))
    if workers:
        # grain asks absl's flags, which only a program of absl's own reads from its arguments.
        flags = require("absl.flags", extra="train").FLAGS
        if not flags.is_parsed():
            flags.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        stream = stream.mp_prefetch(options, worker_init_fn=_follow_the_training)
    return iter(stream)


def _follow_the_training(number: int, workers: int) -> None:
    """Leaves Ctrl-C to the process that trains, and ends with it, also where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_the_training, daemon=True).start()


def _end_after_the_training() -> None:
    training = multiprocessing.parent_process()
    assert training is not None
    training.join()
    os._exit(1)


class Checkpoints:
    """The last and the best state of a run, each with the history of its scores.

    Every save is written aside and renamed by orbax, so a kill at any moment leaves the one before.

    Args:
        folder: where `last/` and `best/` are kept.
    """

    def __init__(self, folder: Path):
        self._managers = {
            name: ocp.CheckpointManager(
                (folder / name).absolute(),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=1, create=True, enable_async_checkpointing=False
                ),
            )
            for name in ("last", "best")
        }

    def save(self, name: str, state: TrainState, history: list[Row]) -> None:
        """Saves; a step that is there already is the same step of the same run, and stays."""
        manager, step = self._managers[name], int(state.step)
        if step in manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), history=ocp.args.JsonSave({"rows": history})
        )
        manager.save(step, args=arguments, force=True)

    def load(self, name: str, like: TrainState) -> tuple[TrainState, list[Row]] | None:
        """The saved state and history, or None if nothing is saved."""
        manager = self._managers[name]
        step = manager.latest_step()
        if step is None:
            return None
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), history=ocp.args.JsonRestore()
        )
        try:
            restored = manager.restore(step, args=arguments)
            return restored["state"], restored["history"]["rows"]
        except (InputError, MemoryError):
            raise
        # Of files that are cut, garbled, exchanged or missing, orbax and what it reads with raise
        # errors of any kind: XLA's RuntimeError and zlib's own, too.
        except Exception as error:
            why = " ".join(str(error).split())
            folder = str(manager.directory / str(step))
            raise InputError(
                f"checkpoint {folder!r} cannot be read; remove it, or give another --out ({why})"
            ) from error

    def close(self) -> None:
        """Releases the checkpoint managers."""
        for manager in self._managers.values():
            manager.close()


@dataclasses.dataclass
class Watch:
    """Who watches a run: its progress on the terminal, and whether it was asked to stop."""

    progress: Progress
    asked_to_stop: bool = False

    def say(self, line: str) -> None:
        """Prints a line above the progress."""
        self.progress.console.print(line, highlight=False)


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Shows progress, and turns the first Ctrl-C or termination signal into a request to stop.

    A step is never torn: its buffers are donated and would be lost. A second Ctrl-C interrupts.
    After the block, a termination signal does what it would have done.
    """
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    watch = Watch(Progress(*columns, TextColumn("{task.fields[note]}")))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    asked = []

    def ask(number, frame):
        watch.asked_to_stop = True
        asked.append(number)
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, ask)
        with watch.progress:
            yield watch
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGTERM in asked:
        signal.raise_signal(signal.SIGTERM)


def fit(training: Training, folder: Path, watch: Watch) -> Fitted | None:
    """Trains from the last checkpoint on.

    Args:
        folder: of the run; `checkpoints/` and `history.jsonl` are kept in it.

    Returns:
        The best state, or None if the run was asked to stop before its end; it is saved then.
    """
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        state, history = training.network.start(training.optimizer), []
        restored = checkpoints.load("last", state)
        if restored is not None:
            state, history = restored
            watch.say(f"resuming {training.title} at step {int(state.step)}")
        if not _trained(training, folder, checkpoints, state, history, watch):
            watch.say(f"stopped and saved; the same command resumes {training.title}")
            return None
        reports.write_lines(folder / "history.jsonl", history)
        best = checkpoints.load("best", training.network.start(training.optimizer))
        assert best is not None
        return Fitted(best[0], best[1][-1], history)


def _trained(
    training: Training,
    folder: Path,
    checkpoints: Checkpoints,
    state: TrainState,
    history: list[Row],
    watch: Watch,
) -> bool:
    """All steps that are left; returns whether the end was reached."""
    network, start = training.network, int(state.step)
    task = watch.progress.add_task(training.title, total=training.steps, completed=start, note="")
    stream = training.batches(start) if start < training.steps else iter(())
    for step, (image, label) in enumerate(stream, start=start + 1):
        state = steps.compiled_step(
            state,
            jnp.asarray(image),
            jnp.asarray(label),
            graph=network.graph,
            trained=network.trained,
            optimizer=training.optimizer,
            loss=training.loss,
        )
        jax.block_until_ready(state)
        if step in training.evaluated:
            state = _evaluated(training, state, history, checkpoints)
            reports.write_lines(folder / "history.jsonl", history)
            told = {"loss": "loss", **training.told}
            note = ", ".join(f"{told[key]} {history[-1][key]:.4f}" for key in told)
            watch.progress.update(task, note=note)
            watch.say(f"{training.title}, step {step}: {note}")
        watch.progress.advance(task)
        if watch.asked_to_stop and step < training.steps:
            checkpoints.save("last", state, history)
            return False
    return True


def _evaluated(
    training: Training, state: TrainState, history: list[Row], checkpoints: Checkpoints
) -> TrainState:
    """Adds a row to the history and saves; returns the state with its loss sum cleared."""
    step = int(state.step)
    since = step - (history[-1]["step"] if history else 0)
    row = {"step": step, "loss": float(state.loss_sum) / since, **training.evaluate(state)}
    is_best = not history or training.merit(row) > max(map(training.merit, history))
    history.append(row)
    state = dataclasses.replace(state, loss_sum=jnp.zeros(()))
    if training.adjusted is not None:
        state = training.adjusted(state, history)
    if is_best:
        checkpoints.save("best", state, history)
    checkpoints.save("last", state, history)
    return state
