"""What every training run needs: checkpoints, a clean stop, atomic JSON, curves."""

import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import tyro

from segcam_jax import _files
from segcam_jax.types import InputError

_FAULT, _INTERRUPTED = 2, 130


def write_json(path: Path, content: Any) -> None:
    """Writes JSON under a temporary name, then renames: a reader never sees half a file."""
    _files.write_bytes(path, json.dumps(content, indent=1).encode())


def from_command_line(work: Callable[[Any], Any], config: type, description: str | None) -> Any:
    """Runs what a script is for on its command line's options.

    Ends the process with 2 and one line where something given is at fault, and with 130 where
    `work` was asked to stop and returns None.
    """
    try:
        done = work(tyro.cli(config, description=description))
    except (InputError, ImportError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(_FAULT) from None
    if done is None:
        raise SystemExit(_INTERRUPTED)
    return done


def claim_folder(folder: Path, config: dict[str, Any]) -> None:
    """Makes the folder of a run, or checks that the run in it had the same configuration.

    Raises:
        InputError: if the folder holds a run of another configuration; names the fields.
    """
    path = folder / "config.json"
    config = json.loads(json.dumps(config, default=str))
    if not path.is_file():
        write_json(path, config)
        return
    before = json.loads(path.read_text())
    changed = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
    if changed:
        raise InputError(
            f"{str(folder)!r} holds a run with another {', '.join(changed)}; repeat its "
            "configuration to resume it, or give another --out"
        )


class Checkpoints:
    """The last and the best state of a run, each with the history of its metrics.

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

    def save(self, name: str, step: int, state: Any, history: list[dict]) -> None:
        """Saves; a step that is there already is the same step of the same run, and stays."""
        manager = self._managers[name]
        if step in manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), history=ocp.args.JsonSave({"rows": history})
        )
        manager.save(step, args=arguments, force=True)

    def load(self, name: str, like: Any) -> tuple[Any, list[dict]] | None:
        """The saved state and history, or None if nothing is saved."""
        manager = self._managers[name]
        step = manager.latest_step()
        if step is None:
            return None
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), history=ocp.args.JsonRestore()
        )
        restored = manager.restore(step, args=arguments)
        return restored["state"], restored["history"]["rows"]

    def close(self) -> None:
        """Releases the checkpoint managers."""
        for manager in self._managers.values():
            manager.close()


@dataclasses.dataclass
class StopRequest:
    """Whether somebody asked the run to stop."""

    asked: bool = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or termination signal into a request that the loop sees.

    A step is never torn: its buffers are donated and would be lost. A second Ctrl-C interrupts.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number, frame):
        request.asked = True
        signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, ask)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plot_curves(path: Path, history: Sequence[dict], panels: dict[str, tuple[str, ...]]) -> None:
    """Draws metrics over steps, one panel for each group, into a PNG file.

    Args:
        path: the file to write.
        history: metrics with a `step` each.
        panels: title -> keys of the metrics drawn in that panel.
    """
    # The figure class, not pyplot: no global state and no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
    for axes, (title, keys) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for key in keys:
            axes.plot([row["step"] for row in history], [row[key] for row in history], label=key)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
