"""The last values made, by key, for several threads."""

import collections
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The values used last, by key: of splits here, of programs in the engine."""

    def __init__(self, size: int):
        self._size = size
        self._lock = threading.Lock()
        self._values: collections.OrderedDict[Any, T] = collections.OrderedDict()

    def get(
        self, key: Any, make: Callable[[], T], lasts: Callable[[T], bool] = lambda value: True
    ) -> T:
        """The value of a key, made where there is none; the one used longest ago then goes.

        Args:
            lasts: whether a value is kept, as one that holds tracers of a caller's is not.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        if not lasts(value):
            return value
        with self._lock:
            value = self._values.setdefault(key, value)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value
