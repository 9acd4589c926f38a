"""SBML export: the equations of one cell (a lesion and its patient's skeleton under a regimen) for COPASI, AMICI or Tellurium.

Nothing is written a second time: :func:`osteobayes.cycle.dynamics.field` and the exposures are traced by JAX, and the trace is
read over arrays whose entries are expressions. What the field says is what the file says.
"""

import ast
import inspect
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count, pairwise
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array

from osteobayes import __version__
from osteobayes.cycle import dynamics, fluxes
from osteobayes.cycle.cells import (
    Cell,
    actions,
    assemble,
    coefficients,
    columns_of,
    component_exposure,
    given_components,
    parameter_names,
)
from osteobayes.cycle.entry import entry_state
from osteobayes.cycle.parameters import CYCLE_PARAMETERS
from osteobayes.cycle.regimen import Component
from osteobayes.cycle.therapy import Agent, Catalogue, shipped_catalogue
from osteobayes.errors import OsteobayesError, RegimenError
from osteobayes.precision import require_float64
from osteobayes.priors import PriorSet
from osteobayes.schema import CANCERS, did_you_mean

# ---- expressions


class Node:
    """An expression: a number, a symbol, or an operation (by its MathML name) on expressions. Equal ones are one object."""

    __slots__ = ("args", "home", "label", "op", "serial", "size", "value")

    def __init__(self, op: str, args: tuple["Node", ...], value: float | str | None, home: str, serial: int) -> None:
        self.op, self.args, self.value, self.home, self.serial = op, args, value, home, serial
        self.size = 1 + sum(a.size for a in args)
        self.label: tuple[str, str, str] | None = None
        """Name that it should have, the suffix of its column, what it is."""


_FOLD: dict[str, Callable[..., Any]] = {
    "plus": lambda *x: sum(x),
    "minus": lambda x, *y: x - y[0] if y else -x,
    "times": lambda *x: math.prod(x),
    "divide": lambda x, y: x / y,
    "power": lambda x, y: x**y,
    "root": math.sqrt,
    "exp": math.exp,
    "ln": math.log,
    "tanh": math.tanh,
    "abs": abs,
    "max": max,
    "min": min,
    "lt": lambda x, y: x < y,
    "leq": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "geq": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "neq": lambda x, y: x != y,
    "and": lambda x, y: bool(x) and bool(y),
    "or": lambda x, y: bool(x) or bool(y),
    "not": lambda x: not x,
}


class Expressions:
    """Makes expressions, the simplest of its kind: constants folded, ``x 1``, ``x + 0``, ``exp(g ln x)`` written shorter."""

    def __init__(self) -> None:
        self._made: dict[tuple, Node] = {}
        self.home = "shared"
        """The arrow whose expressions are being made."""

    def _node(self, op: str, args: tuple[Node, ...] = (), value: float | str | None = None) -> Node:
        key = (op, value, *map(id, args))
        if key not in self._made:
            self._made[key] = Node(op, args, value, self.home, len(self._made))
        return self._made[key]

    def number(self, value: float) -> Node:
        """A number; true and false are 1 and 0."""
        return self._node("number", value=float(value) + 0.0)

    def symbol(self, name: str) -> Node:
        """A symbol: a state, a parameter, or ``time``."""
        return self._node("symbol", value=name)

    def __call__(self, op: str, *args: Node) -> Node:
        """The operation on expressions."""
        if all(a.op == "number" for a in args) and op in _FOLD:
            try:
                return self.number(_FOLD[op](*(a.value for a in args)))
            except (ArithmeticError, TypeError, ValueError):
                return self.number(math.nan)
        simpler = getattr(self, f"_{op}", None)
        found = simpler(*args) if simpler else None
        return self._node(op, args) if found is None else found

    def _plus(self, *args: Node) -> Node | None:
        kept = tuple(a for a in args if a.value != 0.0)
        if len(kept) < 2:
            return kept[0] if kept else self.number(0.0)
        if len(kept) == 2:
            a, b = kept
            if _negative(b):
                return self("minus", a, b.args[0])
            if _negative(a):
                return self("minus", b, a.args[0])
        return self._node("plus", kept)

    def _minus(self, a: Node, b: Node | None = None) -> Node | None:
        if b is None:
            if a.op == "minus":
                return a.args[0] if _negative(a) else self("minus", *reversed(a.args))
            return None
        if b.value == 0.0:
            return a
        if a is b:
            return self.number(0.0)
        if a.value == 0.0:
            return self("minus", b)
        return self("plus", a, b.args[0]) if _negative(b) else None

    def _times(self, *args: Node) -> Node | None:
        if any(a.value == 0.0 for a in args):
            return self.number(0.0)
        kept = tuple(a for a in args if a.value != 1.0)
        if len(kept) < 2:
            return kept[0] if kept else self.number(1.0)
        if len(kept) != 2:
            return self._node("times", kept)
        for a, b in (kept, kept[::-1]):
            if a.value == -1.0:
                return self("minus", b)
            if _negative(a):
                return self("minus", self("times", a.args[0], b))
            if a.op == "divide" and a.args[0].value == 1.0:
                return self("divide", b, a.args[1])
        return self._node("times", kept)

    def _divide(self, a: Node, b: Node) -> Node | None:
        if a.value == 0.0 or b.value == 1.0:
            return a
        return self.number(1.0) if a is b else None

    def _power(self, a: Node, b: Node) -> Node | None:
        if b.value in (0.0, 1.0):
            return a if b.value else self.number(1.0)
        return self.number(1.0) if a.value == 1.0 else None

    def _exp(self, a: Node) -> Node | None:
        if a.op == "ln":
            return a.args[0]
        if _negative(a) and a.args[0].op == "ln":
            return self("divide", self.number(1.0), a.args[0].args[0])
        if a.op == "times" and len(a.args) == 2:
            for g, x in (a.args, a.args[::-1]):
                if x.op == "ln":
                    return self("power", x.args[0], g)
        if a.op in ("plus", "minus") and len(a.args) == 2 and any(x.op == "ln" for x in a.args):
            return self("times" if a.op == "plus" else "divide", *(self("exp", x) for x in a.args))
        return None

    def _ln(self, a: Node) -> Node | None:
        return a.args[0] if a.op == "exp" else None

    def _max(self, a: Node, b: Node) -> Node | None:
        return self._extreme("max", a, b)

    def _min(self, a: Node, b: Node) -> Node | None:
        return self._extreme("min", a, b)

    def _extreme(self, op: str, a: Node, b: Node) -> Node | None:
        if a is b:
            return a
        if a.op == "number":
            return self(op, b, a)
        if b.op == "number" and a.op == op and a.args[1].op == "number":
            return self(op, a.args[0], self(op, a.args[1], b))
        return None

    def choose(self, where: Node, yes: Node, no: Node) -> Node:
        """``yes`` where the condition holds."""
        if yes is no or where.op == "number":
            return yes if where.value else no
        return self._node("choose", (where, yes, no))


def _negative(a: Node) -> bool:
    return a.op == "minus" and len(a.args) == 1


# ---- from a trace to expressions

_ELEMENTWISE: dict[str, str | Callable[..., Node]] = {
    "add": "plus", "sub": "minus", "mul": "times", "div": "divide", "neg": "minus", "exp": "exp", "log": "ln", "pow": "power",
    "max": "max", "min": "min", "sqrt": "root", "tanh": "tanh", "abs": "abs", "lt": "lt", "le": "leq", "gt": "gt",
    "ge": "geq", "eq": "eq", "ne": "neq", "and": "and", "or": "or", "not": "not", "add_any": "plus",
    "log1p": lambda e, x: e("ln", e("plus", e.number(1.0), x)),
    "expm1": lambda e, x: e("minus", e("exp", x), e.number(1.0)),
    "logistic": lambda e, x: e(
        "times", e.number(0.5), e("plus", e.number(1.0), e("tanh", e("times", e.number(0.5), x)))
    ),  # as 1 / (1 + exp(-x)) it would overflow far from the edge
    "square": lambda e, x: e("power", x, e.number(2.0)),
    "integer_pow": lambda e, x, y: e("power", x, e.number(y)),
    "clamp": lambda e, low, x, high: e("min", e("max", x, low), high),
    "select_n": lambda e, where, no, yes: e.choose(where, yes, no),
    "copy": lambda e, x: x,
}  # fmt: skip
"""Primitives of JAX that act entry by entry, as an operation or as a function of expressions and static parameters."""
_STATIC = {"integer_pow": ("y",)}
_PLACING = frozenset(
    {
        "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "concatenate", "stack", "slice", "split", "pad", "gather",
        "dynamic_slice", "transpose", "rev",
    }
)  # fmt: skip
"""Primitives that only move entries: run on the entries' positions, they say which entry goes where."""
_OPERANDS = {"gather": 1, "dynamic_slice": 1}
"""How many of the inputs are moved (default: all); the others are indices."""
_INNER = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}
)
_REDUCE = {"reduce_sum": "plus", "reduce_prod": "times"}


class Reader:
    """Reads a trace of JAX with symbols in some of its inputs; arrays without symbols stay numbers, and JAX computes them.

    Parameters
    ----------
    arrows
        Functions whose results are to be named after them (they are traced as compiled ones), and what each is.
    """

    def __init__(self, arrows: Mapping[str, str]) -> None:
        self.make = Expressions()
        self.arrows = arrows

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """The function's result for inputs (pytrees of arrays of numbers or expressions)."""
        leaves, tree = jax.tree.flatten(inputs)
        shapes = tree.unflatten([jax.ShapeDtypeStruct(np.shape(x), float) for x in leaves])
        traced, result = jax.make_jaxpr(function, return_shape=True)(*shapes)
        return jax.tree.unflatten(jax.tree.structure(result), self._run(traced, leaves))

    @contextmanager
    def at(self, home: str) -> Iterator[None]:
        """Parts of expressions made here are named after `home`."""
        before, self.make.home = self.make.home, home
        try:
            yield
        finally:
            self.make.home = before

    def nodes(self, x: Any) -> np.ndarray:
        """An array's entries as expressions."""
        x = np.asarray(x)
        return x if x.dtype == object else _each(self.make.number, x)

    def name(self, array: Any, name: str, meaning: str = "") -> None:
        """Give the entries of an array a name where they have none."""
        array = np.asarray(array)
        if array.dtype == object:
            for index, node in np.ndenumerate(array):
                if node.args and node.label is None:
                    node.label = (name, suffix(array.shape, index), meaning)

    def _run(self, traced: Any, inputs: list[Any]) -> list[Any]:
        jaxpr = getattr(traced, "jaxpr", traced)
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*getattr(traced, "consts", ()), *inputs), strict=True))

        def value(x: Any) -> Any:
            return np.asarray(x.val if isinstance(x, Literal) else known[x])

        for eqn in jaxpr.eqns:
            found = self._equation(eqn, [value(x) for x in eqn.invars])
            known.update((x, y) for x, y in zip(eqn.outvars, found, strict=True))
        return [value(x) for x in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[np.ndarray]) -> list[Any]:
        primitive, params = eqn.primitive.name, eqn.params
        if primitive in _INNER:
            inner = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params)
            arrow = params.get("name", "")
            if arrow not in self.arrows:
                return self._run(inner, inputs)
            with self.at(arrow):
                found = self._run(inner, inputs)
            for array in found:
                self.name(array, arrow, self.arrows[arrow])
            return found
        if not any(x.dtype == object for x in inputs):
            found = eqn.primitive.bind(*map(jnp.asarray, inputs), **params)
            return list(found) if eqn.primitive.multiple_results else [found]
        if primitive in _ELEMENTWISE:
            found = [self._elementwise(primitive, params, inputs)]
        elif primitive == "convert_element_type":
            found = [self._converted(inputs[0], eqn.invars[0].aval.dtype, params["new_dtype"])]
        elif primitive in _PLACING:
            found = self._placed(eqn, inputs)
        elif primitive in _REDUCE:
            found = [self._reduced(_REDUCE[primitive], self.nodes(inputs[0]), tuple(params["axes"]))]
        elif primitive == "dot_general":
            found = [self._product(self.nodes(inputs[0]), self.nodes(inputs[1]), params["dimension_numbers"])]
        else:
            raise OsteobayesError(
                f"the equations use `{primitive}` of JAX, which the SBML export cannot write yet; add it to cycle/sbml.py"
            )
        return [_settled(x, v.aval.dtype) for x, v in zip(found, eqn.outvars, strict=True)]

    def _elementwise(self, primitive: str, params: Mapping[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
        rule = _ELEMENTWISE[primitive]
        static = [params[k] for k in _STATIC.get(primitive, ())]

        def apply(*nodes: Node) -> Node:
            return self.make(rule, *nodes) if isinstance(rule, str) else rule(self.make, *nodes, *static)

        return _each(apply, *map(self.nodes, inputs))

    def _converted(self, x: np.ndarray, old: Any, new: Any) -> np.ndarray:
        if old == new or (np.issubdtype(old, np.floating) and np.issubdtype(new, np.floating)):
            return x
        if not np.issubdtype(old, np.bool_):
            raise OsteobayesError("the equations make a whole number of a state, which the SBML export cannot write")
        return _each(lambda node: self.make.choose(node, self.make.number(1.0), self.make.number(0.0)), x)

    def _placed(self, eqn: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
        moved = _OPERANDS.get(eqn.primitive.name, len(inputs))
        nodes = [self.nodes(x) for x in inputs[:moved]]
        starts = np.cumsum([0, *(x.size for x in nodes)])
        places = [start + np.arange(x.size).reshape(x.shape) for start, x in zip(starts, nodes, strict=False)]
        found = eqn.primitive.bind(*map(jnp.asarray, (*places, *inputs[moved:])), **eqn.params)
        every = np.concatenate([x.ravel() for x in nodes])
        return [every[np.asarray(x)] for x in (found if eqn.primitive.multiple_results else [found])]

    def _reduced(self, op: str, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        kept = [i for i in range(x.ndim) if i not in axes]
        flat = np.transpose(x, (*kept, *axes)).reshape(*(x.shape[i] for i in kept), math.prod(x.shape[i] for i in axes))
        out = np.empty(flat.shape[:-1], dtype=object)
        for index in np.ndindex(out.shape):
            out[index] = self.make(op, *flat[index])
        return out

    def _product(self, a: np.ndarray, b: np.ndarray, dimensions: Any) -> np.ndarray:
        (over_a, over_b), (batch_a, batch_b) = dimensions

        def arranged(x: np.ndarray, over: tuple[int, ...], batch: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
            free = [i for i in range(x.ndim) if i not in (*over, *batch)]
            shape = [math.prod(x.shape[i] for i in axes) for axes in (batch, free, over)]
            return np.transpose(x, (*batch, *free, *over)).reshape(shape), [x.shape[i] for i in (*batch, *free)]

        left, shape = arranged(a, over_a, batch_a)
        right, more = arranged(b, over_b, batch_b)
        terms = _each(lambda x, y: self.make("times", x, y), left[:, :, None, :], right[:, None, :, :])
        return self._reduced("plus", terms, (3,)).reshape(*shape, *more[len(batch_b) :])


def _each(function: Callable[..., Node], *arrays: np.ndarray) -> np.ndarray:
    """A function on the entries of arrays, broadcast."""
    wide = np.broadcast_arrays(*arrays)
    out = np.empty(wide[0].shape, dtype=object)
    for index in np.ndindex(out.shape):
        out[index] = function(*(x[index] for x in wide))
    return out


def _settled(x: np.ndarray, dtype: Any) -> np.ndarray:
    """An array of expressions as numbers, if all of them are."""
    if x.dtype == object and all(node.op == "number" for node in x.flat):
        return np.array([node.value for node in x.flat], dtype=float).astype(dtype).reshape(x.shape)
    return x


def suffix(shape: tuple[int, ...], index: tuple[int, ...]) -> str:
    """What tells an entry from the lesion's: row 1 is without the module's agents, column 1 is the skeleton."""
    row = "_without" if len(shape) == 2 and index[0] == 1 else ""
    return row + ("_skeleton" if shape and index[-1] == 1 else "")


# ---- the equations, traced


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """The functions that a module defines."""
    found = {name: x for name, x in vars(module).items() if isinstance(x, FunctionType)}
    return {name: x for name, x in found.items() if x.__module__ == module.__name__}


def _again(module: ModuleType, named: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """A module's names with its functions made anew, those that are `named` as compiled ones; the module stays as it is.

    A compiled function is one equation of the trace and has its name there; functions of the module call the new ones.
    """
    names = vars(module) | dict(given)
    for name, function in _functions(module).items():
        copy = FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
        copy.__kwdefaults__ = function.__kwdefaults__
        names[name] = jax.jit(copy) if name in named else copy
    return names


def _arrows() -> tuple[Callable[..., dynamics.State], dict[str, str]]:
    """The field with every arrow traced under its name, and what each arrow is."""
    meanings = {name: (inspect.getdoc(f) or "").split("\n")[0].rstrip(".") for name, f in _functions(fluxes).items()}
    own = _again(fluxes, meanings, {})
    field = _again(dynamics, {"burden"}, {"fluxes": SimpleNamespace(**own)})["field"]
    return field, meanings | {"burden": "Lesion burden (share of its capacity)"}


# ---- the document

_BONE = ("P", "B", "C", "Z", "G", "Q")
_STATES = (*_BONE, "log_N", "y", *(f"{name}_skeleton" for name in _BONE))
"""States that are always written; those of modules are, where one of these depends on them."""
_TIME = "http://www.sbml.org/sbml/symbols/time"
_MATHML = "http://www.w3.org/1998/Math/MathML"
_XHTML = "http://www.w3.org/1999/xhtml"
_entry = jax.jit(entry_state, static_argnames="full")
_PLACES = {"_without": "without the agents of the module", "_skeleton": "systemic skeleton"}


def sbml(
    cell: Cell,
    values: Mapping[str, Array],
    catalogue: Catalogue | None = None,
    horizon_days: float = 1120.0,
    full: bool = False,
    priors: PriorSet | None = None,
) -> str:
    """A cell's equations as SBML Level 3 Version 2: its lesion and its patient's systemic skeleton, one regimen, time in days.

    States are parameters with a rate rule: those of the lesion by their names in :class:`osteobayes.cycle.dynamics.State`
    (``P``, ``B``, ``C``...), those of the skeleton with ``_skeleton`` behind them, and those of a module without its agents
    with ``_without``. Parameters keep their names. Arrows (:mod:`osteobayes.cycle.fluxes`), drug actions (``drug_``) and
    exposures (``exposure_``, closed forms of time) are assignment rules.

    Parameters
    ----------
    cell
        Cancer, regimen, pre-treatment.
    values
        Parameters of the cycle and potencies on the natural scale (scalars, or one value a cancer).
    catalogue
        Agents (default: those that ship with the package).
    horizon_days
        Days for which doses are written.
    full
        Whether every module runs, and deviates from the state at entry.
    priors
        Where meanings and units of the parameters are taken from (default: the priors that ship with the package).

    Returns
    -------
    str
        The XML. The state at entry, and the untreated lesion at entry (``reference_``), are numbers that belong to these
        parameter values: where a parameter is changed in the file, they stay.

    Raises
    ------
    OsteobayesError
        Unknown cancer, a parameter without a value, or an equation that SBML cannot express.
    RegimenError
        An agent without a mechanism, or one whose concentrations come from a table.

    Notes
    -----
    Source of the format: Hucka 2019, J Integr Bioinform 16:20190021 (SBML Level 3 Version 2 Core).
    """
    require_float64()
    catalogue = catalogue or shipped_catalogue()
    if cell.cancer not in CANCERS:
        raise OsteobayesError(f"no cancer is called {cell.cancer!r}; {did_you_mean(cell.cancer, CANCERS)}")
    potencies = parameter_names(catalogue)
    names = (*CYCLE_PARAMETERS, *potencies[1:])
    if missing := [n for n in names if n not in values]:
        raise OsteobayesError(f"parameters without a value: {', '.join(missing)}")
    of_cancer = CANCERS.index(cell.cancer)
    own = {n: float(values[n][of_cancer] if jnp.ndim(values[n]) else values[n]) for n in names}
    components = list(dict.fromkeys(component for component, _ in given_components(cell, catalogue)))
    for component in components:
        kinetics = catalogue.agents[component.agent].kinetics
        if kinetics is not None and kinetics.kind == "table":
            raise RegimenError(
                f"regimen `{component.text()}`: field `agent`: the concentrations of {component.agent} come from a table, "
                "which the SBML export cannot write; give the agent kinetics in closed form"
            )
    horizon = horizon_days + 1.0  # as in `pack`

    def unit(component: Component, _: Agent) -> np.ndarray:
        """Its unit vector: `assemble` is linear in exposures, so what it makes of these says which make up each action."""
        return np.repeat(np.eye(len(components))[:, [components.index(component)]], 3, axis=1)

    arrays = assemble([cell], catalogue, len(components), horizon, unit, full)
    columns, _ = columns_of(arrays)

    # numbers: the state and the untreated lesion at entry
    p = {n: jnp.full(columns.lesion.shape, own[n]) for n in CYCLE_PARAMETERS}
    coefficient = coefficients({n: jnp.asarray(own[n]) for n in potencies[1:]}, potencies, arrays.drugs)
    before = actions({k: d.entry for k, d in arrays.drugs.items()}, coefficient)
    start, reference = _entry(
        p, {k: jnp.broadcast_to(x, columns.lesion.shape) for k, x in before.items()}, columns, full
    )

    # expressions: exposures, drug actions and the field are traced one by one, so that their results have names
    vector_field, arrows = _arrows()
    read = Reader(arrows)
    symbol = read.make.symbol
    time = np.array([symbol("time")], dtype=object)
    exposures = np.empty(len(components), dtype=object)
    for i, component in enumerate(components):
        name = "exposure_" + re.sub(r"[^A-Za-z0-9]+", "_", component.agent)
        agent = catalogue.agents[component.agent]
        with read.at(name):
            found = read(lambda t, c=component, a=agent: component_exposure(c, a, t, horizon), time)
        read.name(found[0], name, f"Exposure: {component.text()}")
        exposures[i] = read.nodes(found)[0]

    def acting(exposure: Array, potency: Mapping[str, Array]) -> dict[str, Array]:
        combined = {k: jnp.tensordot(exposure, d.exposure[:, 0], 1) for k, d in arrays.drugs.items()}
        return actions(combined, coefficients(potency, potencies, arrays.drugs))

    with read.at("drug"):
        given = read(acting, exposures, {n: np.array(symbol(n), dtype=object) for n in potencies[1:]})
    for name, action in given.items():
        read.name(action, f"drug_{name}", fluxes.ACTIONS[name])
    meanings: dict[str, str] = {}
    initial, state = _symbols(start, "", symbol, meanings)
    at_entry, untreated = _symbols(reference, "reference_", symbol, meanings)
    p = {n: np.full(columns.lesion.shape, symbol(n), dtype=object) for n in CYCLE_PARAMETERS}
    slopes = read(lambda y, u, p, ref: vector_field(y, u, p, ref, columns), state, given, p, untreated)
    slope_of = {
        str(node.value): slope
        for name in slopes._fields
        for node, slope in zip(getattr(state, name).flat, read.nodes(getattr(slopes, name)).flat, strict=True)
    }
    known = (priors or PriorSet.load()).parameters
    meanings |= {n: f"{known[n].meaning} ({known[n].unit})" for n in names if n in known}
    notes = [
        f"{cell.cancer}, {cell.regimen}, pre-treatment {cell.pretreatment}; written by osteobayes {__version__}.",
        "Time is in days from study entry. Bone states are relative to healthy bone (1), log_N is the log of the lesion's "
        "burden as a share of its capacity, y the log of systemic growth since entry. States that end in _skeleton are those "
        "of the patient's systemic skeleton, states that end in _without those of a module without its agents.",
        f"Doses are written to day {horizon_days:g}. The initial values and the parameters reference_... are the entry state "
        "that belongs to these parameter values: where a parameter is changed here, they stay.",
    ]
    notes += ["Every module runs, as a deviation from the state at entry (the full model)."] if full else []
    return _document(f"{cell}", notes, slope_of, initial, own | at_entry, meanings)


def _symbols(
    record: Any, prefix: str, symbol: Callable[[str], Node], meanings: dict[str, str]
) -> tuple[dict[str, float], Any]:
    """Numbers of a record's entries by name, and the record with symbols of these names; what they are goes into `meanings`."""
    numbers, out, texts = {}, {}, _texts(type(record))
    for name, value in record._asdict().items():
        if value is None:
            out[name] = None
            continue
        if hasattr(value, "_asdict"):
            more, out[name] = _symbols(value, prefix, symbol, meanings)
            numbers |= more
            continue
        out[name] = np.empty(value.shape, dtype=object)
        for index, number in np.ndenumerate(np.asarray(value)):
            where = suffix(value.shape, index)
            numbers[key := prefix + name + where] = float(number)
            out[name][index] = symbol(key)
            meanings[key] = _place(texts.get(name, f"Of the untreated lesion at entry: {name}"), where)
    return numbers, type(record)(**out)


def _texts(record: type) -> dict[str, str]:
    """What the fields of a class are: the texts below them in its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(record)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    return {
        ast.unparse(field.target): str(text.value.value).rstrip(".")
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _place(text: str, where: str) -> str:
    found = [name for key, name in _PLACES.items() if key in where]
    return "; ".join([text, *found])


def _ordered(roots: Iterable[Node]) -> list[Node]:
    """All expressions of which the roots are made, parts before wholes."""
    done: dict[int, Node] = {}
    todo = [(root, False) for root in roots][::-1]
    while todo:
        node, ready = todo.pop()
        if id(node) in done:
            continue
        if ready:
            done[id(node)] = node
        else:
            todo += [(node, True), *((a, False) for a in reversed(node.args))]
    return list(done.values())


def _reached(slopes: Mapping[str, Node]) -> dict[str, Node]:
    """The states that are always written and those on which they depend, in the order of `slopes`."""
    found: set[str] = set()
    todo = {n for n in _STATES if n in slopes}
    while todo:
        found |= todo
        todo = {str(x.value) for x in _ordered(slopes[n] for n in todo) if x.op == "symbol"} & set(slopes) - found
    return {n: slope for n, slope in slopes.items() if n in found}


def _named(nodes: list[Node], roots: Iterable[Node], taken: set[str]) -> dict[int, str]:
    """Expressions that become assignment rules, and their names: the arrows, and what is used more than once."""
    uses = Counter(id(root) for root in roots)
    uses.update(id(a) for node in nodes for a in node.args)
    names: dict[int, str] = {}

    def free(name: str, where: str) -> str:
        name = f"{name}_flux" if name in CYCLE_PARAMETERS else name
        found = next(x for i in count(1) if (x := name + (f"_{i}" if i > 1 else "") + where) not in taken)
        taken.add(found)
        return found

    for node in sorted(nodes, key=lambda node: node.serial):  # the first one of its kind has the plain name
        if node.args and node.label:
            names[id(node)] = free(node.label[0], node.label[1])
        elif (
            node.args
            and uses[id(node)] > 1
            and (node.size > 5 or node.op not in ("plus", "minus", "times", "divide", "max"))
        ):
            names[id(node)] = free(f"{node.home}_part", "")
    return names


def _document(
    name: str,
    notes: list[str],
    slopes: Mapping[str, Node],
    initial: Mapping[str, float],
    constants: Mapping[str, float],
    meanings: Mapping[str, str],
) -> str:
    """The XML of a model: slopes of the states, and values of states and constants."""
    slopes = _reached(slopes)
    nodes = _ordered(slopes.values())
    symbols = {str(x.value) for x in nodes if x.op == "symbol"}
    used = [n for n in constants if n in symbols]
    names = _named(nodes, slopes.values(), {"time", *slopes, *constants})
    rules = [x for x in nodes if id(x) in names]

    document = ElementTree.Element(
        "sbml", xmlns="http://www.sbml.org/sbml/level3/version2/core", level="3", version="2"
    )  # fmt: skip
    identifier = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    model = ElementTree.SubElement(document, "model", id=f"osteobayes_{identifier}", name=name, timeUnits="day")
    _note(model, *notes)
    unit = ElementTree.SubElement(ElementTree.SubElement(model, "listOfUnitDefinitions"), "unitDefinition", id="day")
    ElementTree.SubElement(
        ElementTree.SubElement(unit, "listOfUnits"), "unit", kind="second", exponent="1", scale="0", multiplier="86400"
    )
    parameters = ElementTree.SubElement(model, "listOfParameters")

    def parameter(key: str, value: float | None, constant: bool, meaning: str) -> None:
        kept = ElementTree.SubElement(parameters, "parameter", id=key, constant=str(constant).lower())
        if value is not None:
            kept.set("value", repr(value))
        if meaning:
            _note(kept, meaning)

    for key in slopes:
        parameter(key, initial[key], False, meanings.get(key, ""))
    for key in used:
        parameter(key, constants[key], True, meanings.get(key, ""))
    for node in rules:
        parameter(names[id(node)], None, False, _place(node.label[2], node.label[1]) if node.label else "")
    ElementTree.indent(document)  # before the equations, which stay on one line each
    found = ElementTree.SubElement(model, "listOfRules")
    found.text, found.tail = "\n      ", "\n  "
    for key, node in [*((names[id(x)], x) for x in rules), *slopes.items()]:
        rule = ElementTree.SubElement(found, "rateRule" if key in slopes else "assignmentRule", variable=key)
        rule.tail = found.text
        others = {k: v for k, v in names.items() if v != key}
        ElementTree.SubElement(rule, "math", xmlns=_MATHML).append(_math(node, others))
    found[-1].tail = "\n    "
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(document, encoding="unicode") + "\n"


def _note(element: ElementTree.Element, *texts: str) -> None:
    notes = ElementTree.SubElement(element, "notes")
    for text in texts:
        ElementTree.SubElement(notes, "p", xmlns=_XHTML).text = text


def _math(node: Node, names: Mapping[int, str]) -> ElementTree.Element:
    """MathML of an expression; the named ones by their names."""
    if node.op == "number":
        return _number(float(node.value or 0.0))
    if node.value == "time":
        element = ElementTree.Element("csymbol", encoding="text", definitionURL=_TIME)
        element.text = "time"
        return element
    if node.op == "symbol" or id(node) in names:
        element = ElementTree.Element("ci")
        element.text = names.get(id(node)) or str(node.value)
        return element
    if node.op == "choose":
        where, yes, no = node.args
        element = ElementTree.Element("piecewise")
        ElementTree.SubElement(element, "piece").extend([_math(yes, names), _math(where, names)])
        ElementTree.SubElement(element, "otherwise").append(_math(no, names))
        return element
    args = node.args
    while node.op in ("plus", "times") and args[0].op == node.op and id(args[0]) not in names:
        args = (*args[0].args, *args[1:])
    element = ElementTree.Element("apply")
    ElementTree.SubElement(element, node.op)
    element.extend(_math(a, names) for a in args)
    return element


def _number(value: float) -> ElementTree.Element:
    """A number that reads back as the same one."""
    if not math.isfinite(value):
        raise OsteobayesError("the equations hold a number that is not finite; check the parameters and the doses")
    element = ElementTree.Element("cn")
    mantissa, _, exponent = repr(value).partition("e")
    if abs(int(exponent or 0)) > 30:
        element.set("type", "e-notation")
        element.text = mantissa
        ElementTree.SubElement(element, "sep").tail = exponent
    else:
        element.text = np.format_float_positional(value, trim="-")
    return element
