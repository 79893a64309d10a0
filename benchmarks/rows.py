"""What a row is: a way to compute a study, prepared for a number of its results."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.studies import Study
from benchmarks.timing import Memory


class Unavailable(Exception):
    """A row that cannot run here; the message says why."""


@dataclasses.dataclass
class Ready:
    """A row, compiled and loaded, for the first `count` results of a study.

    Attributes:
        run: computes the results and waits for them: the fall of the score under each ablation,
            `count`, or the map of each instance, `count *space`, or the aggregate of `count`
            gradients.
        facts: what is known without running: compile time, memory, settings.
        fixed: runs what is done once per study however many results there are, so that a projected
            total does not count it again; None counts it in, to the row's disadvantage.
        memory: measures the peak of a run, where the compiler does not know it.
        check: results of a smaller study that are compared in place of those of a run, where a run
            of another count has another result.
    """

    run: Callable[[], np.ndarray]
    count: int
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Callable[[], Any] | None = None
    memory: Memory | None = None
    check: Callable[[], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        name: what the table says.
        group: `"peer"`, `"jax"` or `"engine"`; rows of a group run at like rates.
        weight: of the workload's budget, against the other rows.
        step: results come in multiples of it, a batch of the row's own.
        least: results that it computes at least, where a whole batch would take too long.
        most: results that it computes at most, where its rate is far from that of other rows; None
            leaves it to the budget.
    """

    name: str
    group: str
    weight: float = 1
    step: int = 1
    least: int | None = None
    most: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it computes all results, whatever the budget says."""
        return False

    @property
    def exact(self) -> bool:
        """Whether all is computed in float32: its difference to brute force is rounding."""
        return True

    def flops_each(self, study: Study) -> float:
        """Operations per result, as XLA counts them; 0 where all come at once."""
        raise NotImplementedError

    def ready(self, study: Study, count: int) -> Ready:
        """Loads and compiles.

        Raises:
            Unavailable: if it cannot run here.
        """
        raise NotImplementedError
