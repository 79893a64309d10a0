"""A traced function as a flat list of equations, calls that hold a tap inlined.

Works with jax 0.10 to 0.12: `ClosedJaxpr` and `Jaxpr` are told apart nowhere, since the two merge
in 0.12, and new jaxprs come from `Jaxpr.replace` only.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.sharding import AxisType

from segcam_jax._jaxpr import naming
from segcam_jax.types import InputError

Var = Any
Equation = Any
Rewrite = Callable[[Equation, Sequence[Any]], list[Any] | None]

# Calls that mean no more than their body does. Control flow runs its body any number of times, and
# a value in there has no place in the outer program: it is never opened.
_TRANSPARENT = frozenset(
    """
    jit pjit closed_call core_call call_hi_primitive remat remat2 checkpoint
    custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr
    """.split()
)


@dataclasses.dataclass(frozen=True)
class Graph:
    """Equations in order of evaluation, each variable defined once.

    Attributes:
        invars: the flat inputs.
        constvars: variables of the arrays that the function closes over.
        equations: inlined as far as taps lie in calls.
        outvars: the flat outputs, variables or literals.
        taps: name -> the variable it names, in order of evaluation.
        enclosed: name -> the primitive (scan, while, cond, ...) that a tap lies inside.
        duplicates: names given more than once.
    """

    invars: tuple[Var, ...]
    constvars: tuple[Var, ...]
    consts: tuple[Any, ...]
    equations: tuple[Equation, ...]
    outvars: tuple[Any, ...]
    taps: Mapping[str, Var]
    enclosed: Mapping[str, str]
    duplicates: frozenset[str]


def is_variable(atom: Any) -> bool:
    """Whether an atom is a variable, not a literal."""
    return not isinstance(atom, core.Literal)


def tap_name(equation: Equation, prefix: str) -> str | None:
    """The name that an equation gives its operand, if it is one of our taps."""
    name = equation.params.get("name") if equation.primitive.name == "name" else None
    if equation.primitive.name == "call_hi_primitive":
        name = getattr(equation.params.get("_prim"), "name", None)
    if isinstance(name, str) and name.startswith(prefix):
        return name.removeprefix(prefix)
    return None


def trace(fn: Callable, prefix: str, *args: Any, kept: bool = True) -> tuple[Graph, Any]:
    """Traces `fn(*args)` to a graph.

    Args:
        kept: whether it may run under another mesh of devices than the one in use.

    Returns:
        The graph, and the pytree of `ShapeDtypeStruct`s that `fn` returns.
    """
    traced = jax.make_jaxpr(fn, return_shape=True)
    try:
        with on_any_mesh() if kept else contextlib.nullcontext():
            closed, output = traced(*args)
    except (RuntimeError, ValueError) as error:  # The model may name axes of the mesh in use.
        if (mesh := _named_mesh()) is None:
            raise
        try:
            with jax.sharding.use_abstract_mesh(mesh):
                closed, output = traced(*args)
        except ValueError:
            traced(*args)  # Fails where the model does so by itself.
            raise InputError(
                "the model moves values over explicit axes of the mesh (jax.sharding.reshard); "
                "use jax.lax.with_sharding_constraint, which explanations leave out, or make the "
                "mesh with axes of AxisType.Auto"
            ) from error
        closed = _without_annotations(closed)
        output = jax.tree.map(struct, output)
    jaxpr, builder = getattr(closed, "jaxpr", closed), _Inliner(prefix)
    outvars = builder.inline(jaxpr, {}, rename=False)
    taps, enclosed = naming.settled(builder.taps, builder.enclosed)
    graph = Graph(
        invars=tuple(jaxpr.invars),
        constvars=(*jaxpr.constvars, *builder.constants),
        consts=(*constants_of(closed), *builder.constants.values()),
        equations=tuple(builder.equations),
        outvars=tuple(outvars),
        taps=taps,
        enclosed=enclosed,
        duplicates=frozenset(builder.duplicates),
    )
    return graph, output


def on_any_mesh():
    """A context in which traced equations fit every mesh of devices, not only the one in use.

    For what is kept: an equation remembers the mesh that it was traced under.
    """
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def _named_mesh() -> Any | None:
    """The mesh in use, whose axes annotations name, its axes automatic; None if there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AxisType.Manual in mesh.axis_types:
        return None
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return jax.sharding.AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=types)


def _without_annotations(program: Any) -> Any:
    """The program traced for any mesh: annotations say where values lie, not what they are."""
    jaxpr = getattr(program, "jaxpr", program)

    def stripped(value):
        if isinstance(value, tuple):
            return tuple(map(stripped, value))
        return _without_annotations(value) if hasattr(value, "in_avals") else value

    def rule(equation: Equation, operands: Sequence[Any]) -> list[Any] | None:
        if equation.primitive.name == "sharding_constraint":
            return list(operands)
        if called_jaxpr(equation) is not None:
            return None
        params = {name: stripped(value) for name, value in equation.params.items()}
        # An equation runs under the mesh of its context, and literals have one.
        invars = [
            atom if is_variable(atom) else core.Literal(np.asarray(atom.val), atom.aval)
            for atom in equation.invars
        ]
        return bind(equation.replace(invars=invars, params=params, ctx=context), *operands)

    def run(*inputs):
        return evaluate(jaxpr, constants_of(program), inputs, rule)

    with on_any_mesh():
        context = closed(jax.lax.neg, 1.0)[1].eqns[0].ctx
        return jax.make_jaxpr(run)(*(struct(variable.aval) for variable in jaxpr.invars))


def struct(value: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype, without a place on a mesh."""
    weak = getattr(value, "weak_type", False)
    return jax.ShapeDtypeStruct(value.shape, value.dtype, weak_type=weak)


def closed(fn: Callable, *structs: Any) -> tuple[Any, Any]:
    """The jaxpr of a function, closed over its constants as `make_jaxpr` returns it, and opened."""
    whole = jax.make_jaxpr(fn)(*structs)
    return whole, getattr(whole, "jaxpr", whole)


def rewritten(fn: Callable, rewrite: Callable[[Any], Callable], *structs: Any) -> Callable:
    """A function, run by what a rewrite makes of its jaxpr.

    Args:
        rewrite: jaxpr as `make_jaxpr` returns it -> `(*leaves) -> [*leaves]`.
    """
    whole, output = jax.make_jaxpr(fn, return_shape=True)(*structs)
    tree, run = jax.tree.structure(output), rewrite(whole)
    return lambda *given: jax.tree.unflatten(tree, run(*jax.tree.leaves(given)))


def called_jaxpr(equation: Equation) -> Any | None:
    """The jaxpr of a call that means no more than its body (jit, remat), or None.

    Calls with a derivative rule of their own are not among them.
    """
    if equation.primitive.name in _TRANSPARENT and "custom" not in equation.primitive.name:
        return _body(equation)
    return None


def call_body(equation: Equation) -> Any | None:
    """The jaxpr of a call, of one with a derivative rule of its own too, or None."""
    return _body(equation) if equation.primitive.name in _TRANSPARENT else None


def bodies(equation: Equation) -> list[Any]:
    """The jaxprs that an equation holds: of a call, a loop, the branches of a condition."""
    held = list(core.jaxprs_in_params(equation.params))
    body = _body(equation)
    if not held and body is not None:
        held = [body]
    return [getattr(inner, "jaxpr", inner) for inner in held]


def constants_of(jaxpr: Any) -> Sequence[Any]:
    """The arrays that a closed jaxpr closes over."""
    return getattr(jaxpr, "consts", ())


def function_of(closed: Any) -> Callable[..., list]:
    """The function `(constants, *inputs) -> [*outputs]` of a closed jaxpr."""
    jaxpr = getattr(closed, "jaxpr", closed)
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    run = subgraph_function(inputs, jaxpr.eqns, jaxpr.outvars)[1]
    return lambda constants, *given: run(*constants, *given)


def held(program: Any) -> Iterator[Any]:
    """Arrays and numbers of a closed jaxpr that are none of its inputs: what its function held."""
    yield from getattr(program, "consts", ())
    for equation in getattr(program, "jaxpr", program).eqns:
        yield from (atom.val for atom in equation.invars if hasattr(atom, "val"))
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(each, "jaxpr", each), "eqns"):
                    yield from held(each)


def bind(equation: Equation, *operands: Any) -> list[Any]:
    """Evaluates one equation, calls and custom derivatives included."""
    places, inputs = [], []
    for atom, operand in zip(equation.invars, operands, strict=True):
        if is_variable(atom) and atom not in places:
            places.append(atom)
            inputs.append(operand)
    return subgraph_function(places, [equation], equation.outvars)[1](*inputs)


def evaluate(
    jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], rule: Rewrite | None = None
) -> list[Any]:
    """The outputs of a jaxpr, calls that mean no more than their body opened.

    Args:
        rule: `(equation, operands) -> results`, or None where the equation is to run as it is.
    """

    def step(equation, operands):
        results = None if rule is None else rule(equation, operands)
        if results is None and (body := called_jaxpr(equation)) is not None:
            return evaluate(body, constants_of(body), operands, rule)
        return bind(equation, *operands) if results is None else results

    return interpret(jaxpr, consts, inputs, step)


def interpret(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    step: Callable[[Equation, list[Any]], Sequence[Any]],
    lifted: Callable[[Any], Any] = lambda array: array,
) -> list[Any]:
    """Evaluates a jaxpr on values of any kind.

    Args:
        consts: arrays.
        inputs: values.
        step: `(equation, operands) -> results`, all of them values.
        lifted: the value of a constant or a literal.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    values.update(zip(jaxpr.constvars, map(lifted, consts), strict=True))

    def value(atom):
        return values[atom] if is_variable(atom) else lifted(atom.val)

    for equation in jaxpr.eqns:
        results = step(equation, [value(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def read(environment: Mapping[Var, Any], atom: Any) -> Any:
    """The value of a variable or a literal."""
    return environment[atom] if is_variable(atom) else atom.val


def flattened(fn: Callable, *structs: Any) -> tuple[Any, Any]:
    """As `closed`, and calls that mean no more than their body are opened."""
    whole = jax.make_jaxpr(fn)(*structs)
    return closed(lambda *inputs: evaluate(whole, constants_of(whole), inputs), *structs)


def subgraph_function(
    inputs: Sequence[Var], equations: Sequence[Equation], outputs: Sequence[Any]
) -> tuple[Any, Callable]:
    """The jaxpr of some equations, and the function `(*inputs) -> [*outputs]` that evaluates it."""
    template: Any = getattr(_EMPTY, "jaxpr", _EMPTY)
    jaxpr = template.replace(
        constvars=(),
        invars=list(inputs),
        eqns=list(equations),
        outvars=list(outputs),
        effects=frozenset().union(*(equation.effects for equation in equations)),
        debug_info=template.debug_info.with_unknown_names(),
    )
    return jaxpr, core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, []))


_EMPTY = jax.make_jaxpr(lambda: None)()


class _Inliner:
    """Walks a jaxpr and its transparent calls; every variable of a call gets a fresh one."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.fresh = core.gensym()
        self.equations: list[Equation] = []
        self.constants: dict[Var, Any] = {}
        self.taps: dict[str, Var] = {}
        self.enclosed: dict[str, str] = {}
        self.duplicates: set[str] = set()

    def inline(self, jaxpr: Any, names: dict[Var, Any], *, rename: bool) -> list[Any]:
        """Appends the equations of `jaxpr`, inputs renamed by `names`; returns its outputs.

        With `rename` its own variables get fresh ones: a body may be called more than once.
        """

        def read(atom):
            return names.get(atom, atom) if is_variable(atom) else atom

        for equation in jaxpr.eqns:
            inner = _body(equation)
            held = list(_names_within(equation, self.prefix))
            if inner is not None and _opens(equation, held):
                body = getattr(inner, "jaxpr", inner)
                bound = dict(zip(body.invars, map(read, equation.invars), strict=True))
                for variable, value in zip(body.constvars, constants_of(inner), strict=True):
                    bound[variable] = self.fresh(variable.aval)
                    self.constants[bound[variable]] = value
                outputs = self.inline(body, bound, rename=True)
                names.update(zip(equation.outvars, outputs, strict=True))
                continue
            for name in held:
                self._register(name, equation.primitive.name, enclosed=True)
            outvars = equation.outvars
            if rename:
                outvars = [self.fresh(variable.aval) for variable in outvars]
                names.update(zip(equation.outvars, outvars, strict=True))
            self.equations.append(
                equation.replace(invars=[read(v) for v in equation.invars], outvars=outvars)
            )
            name = tap_name(equation, self.prefix)
            if name is not None:
                self._register(name, outvars[0], enclosed=False)
        return [read(atom) for atom in jaxpr.outvars]

    def _register(self, name: str, value: Any, *, enclosed: bool) -> None:
        name = naming.numbered(name, self.taps, self.enclosed)
        if name in self.taps or name in self.enclosed:
            self.duplicates.add(name)
        (self.enclosed if enclosed else self.taps)[name] = value


def _opens(equation: Equation, held: Sequence[str]) -> bool:
    """Whether a call is opened for the taps that it holds.

    A derivative rule of its own is lost then, which only an author asks for.
    """
    if "custom" in equation.primitive.name and all(map(naming.is_module, held)):
        return False
    return bool(held) and equation.primitive.name in _TRANSPARENT


def _body(equation: Equation) -> Any | None:
    """The jaxpr that a call equation evaluates, or None."""
    for key in ("jaxpr", "call_jaxpr"):
        if hasattr(equation.params.get(key), "eqns"):
            return equation.params[key]
    return getattr(equation.params.get("_prim"), "jaxpr", None)


def _names_within(equation: Equation, prefix: str) -> Iterator[str]:
    """Names of the taps in the jaxprs that an equation holds."""
    for body in bodies(equation):
        for nested in body.eqns:
            name = tap_name(nested, prefix)
            if name is not None:
                yield name
            yield from _names_within(nested, prefix)
