"""Folders and files without rights, which root may do all with: its power over them is put down."""

import contextlib
import ctypes
import os
import sys

# Capabilities of Linux, by their bits: root reads, writes and enters whatever it likes by them.
_OVERRIDE, _READ_SEARCH = 1 << 1, 1 << 2
_VERSION = 0x20080522
_GET_BITS, _SET_BITS, _NO_FIXUP = 27, 28, 1 << 2


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def held():
    """In the block, rights count for this thread, and for those that it starts, as for all users.

    Yields:
        Whether they do; not on systems where root cannot put its power down.
    """
    if not hasattr(os, "geteuid") or os.geteuid():
        yield hasattr(os, "geteuid")
        return
    if sys.platform != "linux":
        yield False
        return
    libc, header, sets = ctypes.CDLL(None), _Header(_VERSION, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before, bits = sets[0].effective, libc.prctl(_GET_BITS)
    # Else `os.access` asks for what root might take up again.
    done = libc.prctl(_SET_BITS, bits | _NO_FIXUP) == 0
    sets[0].effective = before & ~(_OVERRIDE | _READ_SEARCH)
    done = libc.capset(ctypes.byref(header), sets) == 0 and done
    try:
        yield done
    finally:
        sets[0].effective = before
        assert libc.capset(ctypes.byref(header), sets) == 0
        libc.prctl(_SET_BITS, bits)
