"""The published table as it might have been: every fitted number drawn anew at given parameters, the design kept."""

# statistics have floats for defaults and take arrays
# pyright: reportArgumentType=false

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from osteobayes.errors import OsteobayesError
from osteobayes.model import likelihood
from osteobayes.model.joint import Data, Model
from osteobayes.observe import contrast, median

NOT_REDRAWN = ("landmark", "interval", "patient_set")
"""Families whose design has the observed number in it (sizes from printed intervals, patients at risk, joint laws)."""
INTERVALS = ("median", "rate")
"""Families whose printed interval stands beside the number: it is moved with it, on the log scale."""


def redrawn(model: Model, key: Array, values: Mapping[str, Array], data: Data) -> Data:
    """``data`` with every observed number replaced by a draw at ``values``.

    Parameters
    ----------
    model
        The joint density.
    key
        Random key.
    values
        Parameters on the natural scale.
    data
        :attr:`osteobayes.model.Model.data`, or what is sampled with.

    Returns
    -------
    dict
        The same structure and shapes, so that no compiled function compiles again. Sizes, follow-up, and the relative widths of
        printed intervals stay; whether a median was reached is drawn. Hazard ratios are drawn given the number of their reference
        arm, as their likelihood takes them.

    Raises
    ------
    OsteobayesError
        If a family cannot be drawn anew (:data:`NOT_REDRAWN`).
    """
    if refused := [f for f in NOT_REDRAWN if f in data["rows"]]:
        raise OsteobayesError(
            f"numbers of the family `{refused[0]}` cannot be drawn anew: their printed precision depends on the number; "
            "choose a selection of studies without them, such as `core`"
        )
    observed, rows = dict(data["observed"]), dict(data["rows"])
    arguments, _ = model.expected(values, data)
    keys = dict(zip(sorted(observed), jax.random.split(key, len(observed)), strict=True))
    for family, old in data["observed"].items():
        a = {k: x for k, x in arguments[family].items() if k != "failed"}
        if family == "median":
            new, reached = _medians(keys[family], a, old)
        elif family != "hazard_ratio":
            new, reached = likelihood.simulate(family, keys[family], a, old), None
        else:
            continue
        observed[family] = new
        if family in INTERVALS:
            rows[family] = _moved(rows[family], new / old, reached)
    if "hazard_ratio" in observed:
        given = data | {"observed": observed, "rows": rows}
        a = model.expected(values, given)[0]["hazard_ratio"]
        ks = jax.random.split(keys["hazard_ratio"], observed["hazard_ratio"].shape[0])
        observed["hazard_ratio"] = jax.vmap(contrast.simulate)(ks, a["se"], a["b"], a["z"], a["rho"])
    return data | {"observed": observed, "rows": rows}


def _medians(key: Array, a: Mapping[str, Array], old: Array) -> tuple[Array, Array]:
    """Medians, years (or the ends of the curves), and whether they are reached."""

    def one(key: Array, a: Mapping[str, Array], x: Array) -> tuple[Array, Array]:
        sd = likelihood.sd_log(a["low"], a["high"], x)
        return median.simulate(key, a["hazard"], a["y"], a["n"], a["t"], a["last"], sd)

    new, reached = jax.vmap(one)(jax.random.split(key, old.shape[0]), dict(a), old)
    return new, reached.astype(float)


def _moved(blocks: Mapping[str, Any], factor: Array, reached: Array | None) -> dict[str, Any]:
    """Rows of a family with their printed limits multiplied, and with other flags; blocks follow one another."""
    out, begun = {}, 0
    for name, r in blocks.items():
        mine = slice(begun, begun + r.low.shape[0])
        begun = mine.stop
        out[name] = r._replace(low=r.low * factor[mine], high=r.high * factor[mine])
        if reached is not None:
            out[name] = out[name]._replace(reached=jnp.asarray(reached)[mine])
    return out
