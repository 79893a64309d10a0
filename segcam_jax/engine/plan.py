"""What a study will do, before it does it, like EXPLAIN of a database; and the same in words."""

import dataclasses
import math

from segcam_jax import _print
from segcam_jax.engine.measure import PrecisionError

COLUMNS = ("with", "FLOP each", "of decode", "evaluations", "FLOP in all")


@dataclasses.dataclass(frozen=True)
class Step:
    """The cost of a study with the optimisations up to this one.

    Attributes:
        switch: the switch of `Execution` that this step turns on; None for the first two.
        flops: operations of one evaluation's convolutions and products.
        share: of decode's operations, once forwards.
        evaluations: how many; None where it depends on the input, which is not known.
    """

    switch: str | None
    what: str
    flops: int
    share: float
    evaluations: int | None

    @property
    def total(self) -> int | None:
        """Operations of all evaluations."""
        return None if self.evaluations is None else self.flops * self.evaluations


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a study will do; `str(plan)` is a table.

    Operations (FLOPs) are those of convolutions and products.

    Attributes:
        method: its name.
        tap: where the model is cut.
        activation: shape there, channels last.
        dtype: of the activation.
        kind: `"ablations"` or `"gradients"`; None for a method that evaluates no score again.
        evaluations: in all; that of the unchanged activation among them where scores, not
            changes, are computed.
        masks: ablations, dead ones included; 0 for gradients.
        live: ablations that change something; None where the input is not known.
        network_flops: of one forward pass of the whole model.
        once_flops: of what runs once: the part before the tap, and where changes are propagated,
            decode of the unchanged activation.
        decode_flops: of the part after the tap.
        steps: the cost as optimisations are switched on, one after the other.
        idle: switches that are on and save nothing here.
        window: extents of the output that are computed, where that is not all; else None.
        seen: extents of the activation that the target can see; None: all, or not known.
        fallbacks: primitives that are computed whole for want of a window rule.
        subtracted: primitives whose change is subtracted for want of a rule, so that it loses
            digits where it is small.
        chunk: evaluations at once, on each device.
        devices: that share the evaluations.
        temporaries: bytes that the compiled program takes besides arguments and result; None where
            it was not compiled.
        arguments: bytes of parameters, input and target.
        precision: of the products after the tap.
        seconds: estimated from a few evaluations; None where not measured.
        error: of the precision against float32; None where not measured, or float32.
    """

    method: str
    tap: str
    activation: tuple[int, ...]
    dtype: str
    kind: str | None
    evaluations: int
    masks: int
    live: int | None
    network_flops: int
    once_flops: int
    decode_flops: int
    steps: tuple[Step, ...]
    idle: tuple[str, ...]
    window: tuple[int, ...] | None
    seen: tuple[int, ...] | None
    fallbacks: tuple[str, ...]
    subtracted: tuple[str, ...]
    chunk: int
    devices: int
    temporaries: int | None
    arguments: int | None
    precision: str
    seconds: float | None
    error: PrecisionError | None

    def facts(self) -> list[tuple[str, str]]:
        """All but the steps, as `(name, words)`."""
        return _facts(self)

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """The steps in words: what, operations of one evaluation, share, evaluations, total."""
        return [
            (
                step.what,
                flops_in_words(step.flops),
                f"{step.share:.1%}",
                "?" if step.evaluations is None else str(step.evaluations),
                "?" if step.total is None else flops_in_words(step.total),
            )
            for step in self.steps
        ]

    def __str__(self) -> str:
        facts = self.facts()
        margin = max(len(name) for name, _ in facts)
        head = [f"{name.ljust(margin)}  {words}" for name, words in facts]
        if not self.steps:
            return "\n".join(head)
        rows = [COLUMNS, *self.table()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*head, "", lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _facts(plan: Plan) -> list[tuple[str, str]]:
    facts = [
        ("method", f"{plan.method} at tap {plan.tap!r}"),
        ("activation", f"{_print.extents(plan.activation)}, {plan.dtype}"),
        (
            "network",
            f"{flops_in_words(plan.network_flops)}FLOP forwards, of which "
            f"{flops_in_words(plan.decode_flops)}FLOP after the tap",
        ),
        ("once", f"{flops_in_words(plan.once_flops)}FLOP: before the tap, and what is known"),
        ("evaluations", _evaluations(plan)),
    ]
    if plan.window is not None:
        seen = "" if plan.seen is None else f", {_print.extents(plan.seen)} of the activation"
        facts.append(("window", f"{_print.extents(plan.window)} of the output{seen}"))
    if plan.fallbacks:
        facts.append(("computed whole", f"{', '.join(plan.fallbacks)}: without a window rule"))
    if plan.subtracted:
        facts.append(("subtracted", f"{', '.join(plan.subtracted)}: without a rule for changes"))
    if plan.idle:
        facts.append(("no gain from", ", ".join(plan.idle)))
    facts.append(("precision", _precision(plan)))
    if plan.temporaries is not None and plan.arguments is not None:
        temporaries, arguments = (_bytes(n) for n in (plan.temporaries, plan.arguments))
        facts.append(("memory", f"{temporaries} besides {arguments} of parameters and input"))
    if plan.seconds is not None:
        facts.append(("time", f"about {_seconds(plan.seconds)}, without compilation"))
    return facts


def _evaluations(plan: Plan) -> str:
    if plan.kind is None:
        return "none: no score is evaluated again"
    if plan.kind == "gradients":
        words = "1 gradient" if plan.evaluations == 1 else f"{plan.evaluations} gradients"
    elif plan.evaluations == 1:
        return f"1 gradient for all {plan.masks} ablations"
    else:
        live = "" if plan.live is None else f", {plan.live} of them live"
        unchanged = ", and the unchanged activation" if plan.evaluations > plan.masks else ""
        words = f"{plan.masks} ablations{live}{unchanged}"
    shared = "" if plan.devices == 1 else f" on each of {plan.devices} devices"
    return f"{words}; {plan.chunk} at once{shared}"


def _precision(plan: Plan) -> str:
    if plan.error is None:
        return plan.precision
    rank = "no order" if math.isnan(plan.error.rank) else f"{plan.error.rank:.4f}"
    return (
        f"{plan.precision}: largest error {plan.error.largest:.2g} of the largest value, rank "
        f"correlation with float32 {rank}, of {plan.error.sample} values"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def flops_in_words(count: int) -> str:
    """A number with a unit: `94.3 G`."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {letter}"
    return f"{count} "


def _bytes(count: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            return f"{count / 2**power:.3g} {unit}"
    return f"{count} bytes"
