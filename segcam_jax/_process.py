"""What a process of the command line has to itself: Ctrl-C, and when garbage is collected.

A process is the command line's if its program is `segcam`, or `python -m segcam_jax`; elsewhere
nothing here does anything. While modules are imported and while Python shuts down, Ctrl-C ends the
process at once, as a shell expects it (exit code 130), import included; in between it is a
`KeyboardInterrupt`.
"""

import _thread
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_PROGRAMS = ("segcam", "segcam.exe", "-m")  # Python says -m until it has found the module.
_AGAIN = 0.01  # seconds
# Objects until the collector looks at the youngest, and how often at all others: modules, programs
# and figures are many objects that stay, which the usual 700 looks at for a tenth of the time.
_GARBAGE = (50_000, 20, 100)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """In the block, Ctrl-C raises `KeyboardInterrupt`: there may be something to tidy up."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL or not _in_main_thread():
        yield
        return
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """In the block, where modules are imported that may catch it, Ctrl-C ends the process."""
    if sys.unraisablehook is not _unraisable or not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _unraisable(told: Any) -> None:
    """Raises an interrupt again that came where Python can raise nothing, as in a destructor."""
    if issubclass(told.exc_type, KeyboardInterrupt):
        threading.Timer(_AGAIN, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(told)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


if sys.argv and os.path.basename(sys.argv[0]) in _PROGRAMS and _in_main_thread():
    gc.set_threshold(*_GARBAGE)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
