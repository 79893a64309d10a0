"""Who computes which shard: shares of one run, processes of `jax.distributed`, actors of Ray.

All of them write one store, each the shards that are its own; none waits for another.
"""

import collections
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from segcam_jax.extras import require
from segcam_jax.types import InputError

# Of a task of Ray: enough for reading and writing to go on while a device computes.
_SHARDS_A_TASK = 4
_MOST_DEATHS = 3


def parse_share(words: str | None) -> tuple[int, int]:
    """Index and count of `K/N`; None: those of this process of `jax.distributed`."""
    if words is None:
        return jax.process_index(), jax.process_count()
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", words)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--share was given {words!r}; give K/N, from 1/N to N/N")
    return index - 1, count


def numbers_of(share: tuple[int, int], shards: int) -> Sequence[int]:
    """The shards of a share, of so many."""
    index, count = share
    return range(index, shards, count)


def on_ray(
    make: Callable[[], Any], numbers: Sequence[int], *, address: str, workers: int
) -> Iterator[Any]:
    """Computes shards by actors of a Ray cluster.

    Each actor makes its worker once, in a process of its own, which has a GPU for itself where the
    cluster has any. Shards of an actor that dies, with its process or its machine, are computed
    again, a few times.

    Args:
        make: makes a worker, as `JobWorker`; pickled, and called in the actor.
        address: of the cluster, or `auto` for one of this machine.

    Yields:
        What `compute` returned, task by task, as they end.

    Raises:
        InputError: if the cluster cannot be reached, has fewer GPUs, or a worker cannot be made.
    """
    check_cluster(address)
    ray = require("ray", extra="ray")
    try:
        with warnings.catch_warnings():
            # JAX warns of forks, and Ray's processes execute another program at once.
            warnings.filterwarnings("ignore", message=r"os\.fork", category=RuntimeWarning)
            where = None if address == "auto" else address
            ray.init(address=where, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the Ray cluster {address!r} cannot be reached: {reason}") from None

    class ShardActor:
        def __init__(self):
            self._worker = make()

        def compute(self, numbers: Sequence[int]) -> Any:
            return self._worker.compute(numbers)

    try:
        there = int(ray.cluster_resources().get("GPU", 0))
        if 0 < there < workers:
            raise InputError(
                f"{workers} workers were asked for, and the cluster has {there} GPU(s)"
            )
        often = {"max_restarts": _MOST_DEATHS, "max_task_retries": _MOST_DEATHS}
        actor_class = ray.remote(num_gpus=1 if there else 0, **often)(ShardActor)
        actors = [actor_class.remote() for _ in range(workers)]
        tasks = collections.deque(
            numbers[start : start + _SHARDS_A_TASK]
            for start in range(0, len(numbers), _SHARDS_A_TASK)
        )
        running = {actor.compute.remote(tasks.popleft()): actor for actor in actors if tasks}
        while running:
            (ended,), _ = ray.wait(list(running))
            actor = running.pop(ended)
            yield ray.get(ended)
            if tasks:
                running[actor.compute.remote(tasks.popleft())] = actor
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        cause = re.search(r"segcam_jax\.types\.\w+: (.*)", reason)
        raise InputError(f"a worker failed: {cause[1] if cause else reason}") from None
    finally:
        ray.shutdown()


def check_cluster(address: str) -> None:
    """Raises `InputError` if nobody listens at an address, for which Ray would wait for minutes."""
    require("ray", extra="ray")
    if address == "auto":
        return
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "give HOST:PORT, or auto"
        raise InputError(f"the Ray cluster {address!r} cannot be reached: {reason}") from None
