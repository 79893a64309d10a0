"""What a process of the command line has to itself: signals, and when garbage is collected.

A process is the command line's if its program is `segcam`, or `python -m segcam_jax`; elsewhere
nothing here does anything. While modules are imported and while Python shuts down, either signal
ends the process at once, as a shell expects it (exit codes 130 and 143); in between Ctrl-C is a
`KeyboardInterrupt`, and SIGTERM a `Terminated`: files that are being written are removed.
"""

import _thread
import contextlib
import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

_PROGRAMS = ("segcam", "segcam.exe")
_AGAIN = 0.01  # seconds
# Objects until the collector looks at the youngest, and how often at all others: modules, programs
# and figures are many objects that stay, which the usual 700 looks at for a tenth of the time.
_GARBAGE = (50_000, 20, 100)


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. What lets Ctrl-C through lets it through too."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


_RAISE = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """In the block, signals raise their exceptions: there may be something to tidy up."""
    # Other programs of Python have its own handler; processes in the background ignore Ctrl-C.
    ours = signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.SIG_IGN)
    taken = [each for each in _RAISE if signal.getsignal(each) is signal.SIG_DFL]
    taken = taken if ours and _in_main_thread() else []
    before = sys.unraisablehook
    if taken:
        sys.unraisablehook = _unraisable
    for number in taken:
        signal.signal(number, _RAISE[number])
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if taken:
            sys.unraisablehook = before


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """In the block, where modules are imported that may catch them, signals end the process."""
    raising = _in_main_thread() and sys.unraisablehook is _unraisable
    taken = [each for each in _RAISE if raising and signal.getsignal(each) is _RAISE[each]]
    for number in taken:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, _RAISE[number])


def _unraisable(told: Any) -> None:
    """Raises an interrupt again that came where Python can raise nothing, as in a destructor."""
    if issubclass(told.exc_type, KeyboardInterrupt):
        number = signal.SIGTERM if issubclass(told.exc_type, Terminated) else signal.SIGINT
        threading.Timer(_AGAIN, _thread.interrupt_main, (number,)).start()
    else:
        sys.__unraisablehook__(told)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_command_line() -> bool:
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    # Python says -m until it has found the module.
    by_name = ("-m", "segcam_jax") in itertools.pairwise(sys.orig_argv)
    return program in _PROGRAMS or (program == "-m" and by_name)


if _is_command_line() and _in_main_thread():
    gc.set_threshold(*_GARBAGE)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
