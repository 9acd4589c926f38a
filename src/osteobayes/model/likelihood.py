"""Joins observable curves and published numbers: what each statistic expects, how likely the printed number is, replicates.

A family is one statistic (`osteobayes.evidence.uses.FAMILIES`). Its rows come in blocks, by the kind of curve or the law that
they read; within a family outcomes are in the order of the blocks.
"""

# statistics have floats for defaults and take arrays; families differ in the arguments that their functions need
# pyright: reportArgumentType=false

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osteobayes.evidence.pack import ONSET_YEARS, PERIOD_YEARS
from osteobayes.evidence.rows import Arms
from osteobayes.evidence.together import TOGETHER
from osteobayes.model.curves import CURVES, Curves, component_hazards, effect_vectors, member_death
from osteobayes.observe import (
    completion,
    contrast,
    crude,
    incidence,
    landmark,
    marker,
    median,
    observable,
    patient_set,
    rate,
    ratio,
    recurrent,
    response,
    split,
)
from osteobayes.observe.distributions import binomial_log_lik
from osteobayes.observe.hazards import CellHazards

Arguments = dict[str, Array]
COUNTS = ("crude", "completion", "incidence", "prevalence", "responder")
"""Families whose observed number is a count of patients."""


@dataclass(frozen=True)
class Context:
    """What the statistics of one draw are computed from."""

    values: Mapping[str, Array]
    cells: CellHazards
    data: Mapping[str, Any]
    t: Array
    shared: bool = False
    """Whether the frailty of skeletal events multiplies death too."""

    @cached_property
    def effects(self) -> dict[str, Array]:
        """Study effects."""
        return effect_vectors(self.values)

    @cached_property
    def curves(self) -> dict[str, Curves]:
        """Curves by kind."""
        return {
            k: CURVES[k](a, self.cells, self.values, self.effects, self.t, self.shared)
            for k, a in self.data["arms"].items()
            if a.cell.shape[0]
        }

    def arms(self, kind: str) -> Arms:
        """Arms of a kind."""
        return self.data["arms"][kind]

    def components(self, arms: Array) -> tuple[Array, Array, Array, Array]:
        """Hazards by component and of death of some SRE arms, their weights and stay."""
        a = self.arms("SRE").at(arms)
        hazard = component_hazards(a, self.cells, self.values, self.effects)
        return (
            hazard,
            member_death(a, self.cells, self.values, self.effects, self.t),
            a.weight,
            self.curves["SRE"].stay[arms],
        )

    def members(self, rows: Array, x: Float[Array, "cell time"]) -> tuple[Array, Array]:
        """A cell quantity of the members of some OS arms [row, member, time], and the members' weights [row, member]."""
        a = self.arms("OS").at(rows)
        return x[a.cell], a.weight


def _joined(blocks: Iterable[Arguments]) -> Arguments:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *blocks)


def _crude(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for kind, r in rows.items():
        flow = c.curves[kind].share_seen(c.arms(kind).weight)
        blocks.append({"p": (flow[r.arm] * r.quadrature).sum(axis=1), "n": r.n})
    return _joined(blocks)


def _split(c: Context, r: Any) -> Arguments:
    hazard, death, weight, stays = c.components(r.arm)
    obs = jax.vmap(lambda h, d: observable(h, d, c.values["frailty"], c.t, c.shared))(hazard, death)
    first = jax.vmap(crude.first_event)(obs, weight, stays, r.quadrature)
    return {"shares": jax.vmap(split.expected)(first), "total": r.total}


def _completion(c: Context, r: Any) -> Arguments:
    a = c.arms("OS").at(r.arm)
    dropout = jnp.exp(-c.values["dropout"] * jnp.exp(c.effects["dropout"][a.dropout]) * r.years)
    p = jax.vmap(completion.expected)(c.curves["OS"].member_at_risk[r.arm], a.weight, dropout, r.interpolation)
    return {"p": p, "n": r.n}


def _median(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for kind, r in rows.items():
        curves = c.curves[kind]
        blocks.append(
            {
                "hazard": curves.hazard[r.arm], "y": (curves.at_risk * curves.stay)[r.arm], "n": r.n, "low": r.low,
                "high": r.high, "reached": r.reached, "last": r.last,
            }
        )  # fmt: skip
    out = _joined(blocks)
    return out | {"t": jnp.broadcast_to(c.t, out["y"].shape)}


def _landmark(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for block, r in rows.items():
        kind, _, estimator = block.partition(" ")
        curves = c.curves[kind]
        hazard, at_risk, stays = curves.hazard[r.arm], curves.at_risk[r.arm], curves.stay[r.arm]
        if estimator == "aj":
            hazard, y = jax.vmap(lambda h, a, g: landmark.subdistribution(h, a, g, c.t))(hazard, at_risk, stays)
        else:
            y = at_risk * stays
        blocks.append({"hazard": hazard, "y": y, "n": r.n, "q": r.quadrature, "low": r.low, "high": r.high})
    longest = max(b["q"].shape[1] for b in blocks)
    return _joined(
        b | {k: _longer(b[k], longest, v) for k, v in (("q", 0.0), ("low", jnp.nan), ("high", jnp.nan))} for b in blocks
    )


def _longer(x: Array, to: int, fill: float) -> Array:
    """Pad the second axis."""
    return jnp.pad(x, [(0, 0), (0, to - x.shape[1]), *[(0, 0)] * (x.ndim - 2)], constant_values=fill)


def _interval(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for kind, r in rows.items():
        total = jnp.einsum("rjt,rt->rj", r.quadrature, c.curves[kind].hazard[r.arm])
        p = -jnp.expm1(-jnp.diff(total, axis=1, prepend=0.0))
        blocks.append({"p": p, "n": r.at_risk})
    longest = max(b["p"].shape[1] for b in blocks)
    return _joined({k: _longer(x, longest, jnp.nan) for k, x in b.items()} for b in blocks)


def _hazard_ratio(c: Context, rows: Mapping[str, Any], others: Mapping[str, Arguments]) -> Arguments:
    """Cox ratios; where the reference arm's total or median is fitted too, given its residual and their correlation."""
    observed = c.data["observed"]
    residuals = {}
    if "crude" in others:
        residuals["crude"] = crude.residual(observed["crude"], others["crude"]["n"], others["crude"]["p"])
    if "median" in others:
        residuals["median"] = median_residual(observed["median"], others["median"])
    blocks = []
    for kind, r in rows.items():
        curves, weight = c.curves[kind], c.arms(kind).weight

        def side(arm: Array, curves: Curves = curves) -> tuple[Array, Array]:
            return curves.member_hazard[arm], curves.member_at_risk[arm] * curves.stay[arm][:, None]

        b = jax.vmap(contrast.hazard_ratio)(
            *side(r.treated), *side(r.reference), r.quadrature, r.allocation, weight[r.treated]
        )
        rho = jnp.zeros_like(b)
        if "crude" in residuals:
            exact = jax.vmap(contrast.correlation_crude, in_axes=(0, 0, 0, 0, 0, 0, None, 0, 0))
            sides = (*side(r.treated), *side(r.reference))
            with_crude = exact(b, *sides, r.quadrature, c.t, r.allocation, weight[r.treated])
            rho = jnp.where(r.has_crude > 0, with_crude, rho)
        if "median" in residuals:
            x = jnp.where(r.has_median > 0, observed["median"][r.median], c.t[1])
            q_x = jax.vmap(lambda x: quadrature_at(x, c.t)[0])(x)
            exact = jax.vmap(contrast.correlation_median, in_axes=(0, 0, 0, 0, 0, 0, None, 0, 0))
            y = curves.at_risk * curves.stay
            sides = (curves.hazard[r.treated], y[r.treated], curves.hazard[r.reference], y[r.reference])
            rho = jnp.where(r.has_median > 0, exact(b, *sides, r.quadrature, c.t, q_x, r.allocation), rho)
        # far from the data a curve ends at once and its correlation has no derivative; a force without that small part is as valid
        rho = jax.lax.stop_gradient(jnp.clip(jnp.where(jnp.isfinite(rho), rho, 0.0), -0.95, 0.95))
        z = jnp.zeros_like(b)
        for name, has, index in (("crude", r.has_crude, r.crude), ("median", r.has_median, r.median)):
            if name in residuals:
                z = jnp.where(has > 0, residuals[name][index], z)
        blocks.append({"b": b, "se": r.se, "rho": rho, "z": z})
    return _joined(blocks)


def _rate_ratio(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for law, r in rows.items():

        def side(arm: Array) -> tuple[Array, Array, Array, Array, Array]:
            hazard, death, weight, stays = c.components(arm)
            rates, living = jax.vmap(lambda h, d: recurrent(h, d, c.values["frailty"], c.t, c.shared))(hazard, death)
            return rates.sum(axis=2), living, weight, stays, hazard.sum(axis=2)

        rate1, living1, weight1, stay1, _ = side(r.treated)
        rate0, living0, weight0, stay0, _ = side(r.reference)
        y1, y0 = living1 * stay1[:, None], living0 * stay0[:, None]
        if law == "andersen_gill":
            b = jax.vmap(contrast.hazard_ratio)(rate1, y1, rate0, y0, r.quadrature, r.allocation, weight1)
        else:  # Poisson: events over person-time

            def pooled(rates: Array, y: Array, weight: Array, r: Any = r) -> Array:
                events = jnp.einsum("rm,rmt,rmt,rt->r", weight, rates, y, r.quadrature)
                return jnp.log(events) - jnp.log(jnp.einsum("rm,rmt,rt->r", weight, y, r.quadrature))

            b = pooled(rate1, y1, weight1) - pooled(rate0, y0, weight0)
        blocks.append({"b": b, "se": r.se})
    return _joined(blocks)


def _ratio(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for block, r in rows.items():
        kind, _, law = block.partition(" ")
        flow = c.curves[kind].share_seen(c.arms(kind).weight)
        p1, p0 = ((flow[arm] * r.quadrature).sum(axis=1) for arm in (r.treated, r.reference))
        b = ratio.expected("odds_ratio" if law == "odds" else "risk_difference", p1, p0)
        blocks.append({"b": b, "se": r.se})
    return _joined(blocks)


def _rate(c: Context, rows: Mapping[str, Any]) -> Arguments:
    """Mean rates and the standard deviations of their logs; none (NaN) for the mean of the patients' own rates."""
    theta, t = c.values["frailty"], c.t

    def one(law: str, n: Array, gap: Array, *arm: Array) -> tuple[Array, Array]:
        hazard, death, weight, stays, q = arm
        drawn = (hazard, death, theta, weight, stays, q, t, c.shared)
        if law == "count":
            return rate.mean_count(*drawn, gap=gap), rate.sd_count(n, *drawn, gap=gap)
        if law == "pooled":
            return rate.pooled_rate(*drawn, gap=gap), rate.sd_pooled(n, *drawn, gap=gap)
        if law == "period":
            return rate.period_rate(*drawn, length=PERIOD_YEARS), rate.sd_period(n, *drawn, length=PERIOD_YEARS)
        return rate.mean_rate(*drawn), jnp.full_like(n, jnp.nan)

    blocks = []
    for law, r in rows.items():
        mean, sd = jax.vmap(partial(one, law))(r.n, r.gap, *c.components(r.arm), r.quadrature)
        blocks.append({"mean": mean, "n": r.n, "low": r.low, "high": r.high, "sd": sd})
    return _joined(blocks)


def _incidence(c: Context, r: Any) -> Arguments:
    effect = c.effects["registry"][r.effect]
    at_diagnosis = jax.nn.sigmoid(c.values["onset_at_diagnosis"][r.onset] + effect)
    scale = jnp.exp(c.values["onset_hazard"][r.onset] + effect)
    later = jax.vmap(
        lambda s, d, g: incidence.metachronous_crude(s, c.values["onset_shape"], d, g, jnp.asarray(ONSET_YEARS))
    )(scale, c.values["registry_death"][r.cancer], r.stay)
    return {"p": jnp.where(r.metachronous > 0, later, at_diagnosis), "n": r.n}


def _incidence_curve(c: Context, r: Any) -> Arguments:
    effect = c.effects["registry"][r.effect]
    p0 = jax.nn.sigmoid(c.values["onset_at_diagnosis"][r.onset] + effect)
    scale = jnp.exp(c.values["onset_hazard"][r.onset] + effect)
    curve = jax.vmap(lambda years, s, p: incidence.km_curve(years, s, c.values["onset_shape"], p))(r.years, scale, p0)
    return {"curve": curve, "n": r.n, "tau": jnp.full_like(r.n, 1.0) * c.values["residual_sd"]}


def _prevalence(c: Context, r: Any) -> Arguments:
    return {"p": jax.nn.sigmoid(c.values["bone_share"][r.onset] + c.effects["registry"][r.effect]), "n": r.n}


def _marker_fold(c: Context, r: Any, block: str) -> Array:
    """Log fold of a marker in the typical patient of each row's arm at its time."""
    fold, weight = c.members(r.arm, getattr(c.cells, block))
    at = jnp.einsum("rmt,rt->rm", fold, r.interpolation)
    return (weight * at).sum(axis=1) + c.effects["response"][r.effect]


def _objective(t: Array, spread: Array, growth: Array, seen: Array, horizon: Array) -> Array:
    """Chance of an objective response of each member of an arm."""
    return jax.vmap(lambda y, s: response.objective(y, s, t, horizon, spread))(growth, seen)


def _responder(c: Context, rows: Mapping[str, Any]) -> Arguments:
    blocks = []
    for block, r in rows.items():
        effect = c.effects["response"][r.effect]
        if block == "ORR":
            growth, weight = c.members(r.arm, c.cells.growth)
            seen = c.curves["OS"].member_at_risk[r.arm] * c.curves["OS"].stay[r.arm][:, None]
            horizon = r.quadrature.sum(axis=1)
            p = jax.vmap(partial(_objective, c.t, c.values["progression_heterogeneity"]))(growth, seen, horizon)
            p = (weight * p).sum(axis=1)
            logit = jnp.log(p + 1e-12) - jnp.log1p(-p * (1.0 - 1e-12)) + effect
            p = jax.nn.sigmoid(logit)
        elif block == "pain":
            flux, weight = c.members(r.arm, c.cells.flux)
            burden, _ = c.members(r.arm, c.cells.burden)
            relief = -(c.values["pain_resorption_elasticity"] * flux + c.values["pain_burden_elasticity"] * burden)
            relief = jnp.einsum("rmt,rt->rm", relief, r.interpolation)
            p = response.pain(c.values["pain_response_logit"] + effect[:, None], 1.0, relief)
            p = (weight * p).sum(axis=1)
        else:
            p = marker.responders(_marker_fold(c, r, block), c.values["marker_patient_sd"], r.fall)
        blocks.append({"p": p, "n": r.n})
    return _joined(blocks)


def _marker(c: Context, rows: Mapping[str, Any]) -> Arguments:
    return _joined(
        {
            "mu": _marker_fold(c, r, block), "n": r.n, "mean": r.mean,
            "spread": c.values["marker_patient_sd"] * jnp.ones_like(r.n),
        }
        for block, r in rows.items()
    )  # fmt: skip


def _patient_set(c: Context, r: Any, others: Mapping[str, Arguments]) -> Arguments:
    """Residuals of the numbers of each set; NaN where there is none (padding, or a median that was not reached)."""
    observed = c.data["observed"]
    found = [jnp.full((1,), jnp.nan)]
    for family in TOGETHER:
        if family not in others:
            continue
        a, x = others[family], observed[family]
        if family == "crude":
            z = crude.residual(x, a["n"], a["p"])
        elif family == "median":
            z = jnp.where(a["reached"] > 0, median_residual(x, a), jnp.nan)
        elif family == "rate":
            z = (jnp.log(x) - jnp.log(a["mean"] + 1e-12)) / jax.vmap(rate.spread_of)(
                x, a["n"], a["low"], a["high"], a["sd"]
            )
        else:
            z = (x - a["b"]) / a["se"]
        found.append(z)
    return {"z": jnp.concatenate(found)[r.index + 1], "correlation": r.correlation}


def _together(_: Array, a: Arguments) -> Array:
    """Log density of a set of numbers over the product of their own: a Gaussian copula with the working correlations."""
    z, one = a["z"], jnp.ones_like(a["z"])
    alone = jax.vmap(lambda z: patient_set.log_lik(z[None], one[:1], jnp.eye(1)))(z).sum()
    return patient_set.log_lik(z, one, a["correlation"]) - alone


def quadrature_at(x: Array, t: Array) -> tuple[Array, Array]:
    """Quadrature and interpolation weights at a time ``x`` on a uniform grid, differentiable in ``x`` (see `observe.grid`)."""
    dt = t[1] - t[0]
    r = jnp.clip((x - t) / dt, -1.0, 1.0)
    q = dt * jnp.where(r <= 0, 0.5 * (1.0 + r) ** 2, 1.0 - 0.5 * (1.0 - r) ** 2)
    return q.at[0].add(-0.5 * dt), 1.0 - jnp.abs(r)


def _median_arguments(x: Array, a: Mapping[str, Array]) -> tuple:
    q, p = quadrature_at(x, a["t"])
    return a["hazard"], a["y"], a["n"], a["t"], x, q, p, a["low"], a["high"], a["reached"] > 0


def median_residual(x: Array, a: Mapping[str, Array]) -> Array:
    """Standardised residual of each observed median."""
    return jax.vmap(lambda x, a: median.residual(*_median_arguments(x, a)))(x, dict(a))


def _printed_or(printed: Array, own: Array) -> Array:
    return jnp.where(jnp.isfinite(printed), printed, own)


def sd_log(low: Array, high: Array, x: Array) -> Array:
    """Standard deviation of the log of a number from its printed 95 % limits (or the lower one alone); NaN without them."""
    both = jnp.log(high / low) / 3.92
    lower = jnp.log(x / low) / 1.96
    return jnp.where(jnp.isfinite(both), both, jnp.where(jnp.isfinite(lower), lower, jnp.nan))


class Family(NamedTuple):
    """One statistic: arguments of its likelihood, log likelihood and replicate of one outcome, expected value, printed scale."""

    expected: Callable[..., Arguments]
    log_lik: Callable[[Array, Arguments], Array]
    simulate: Callable[[Array, Arguments, Array], Array]
    centre: Callable[[Arguments], Array]


def _interval_log_lik(x: Array, a: Arguments) -> Array:
    use = jnp.isfinite(x) & jnp.isfinite(a["n"])
    events, n, p = (jnp.where(use, v, fill) for v, fill in ((x, 0.0), (a["n"], 1.0), (a["p"], 0.5)))
    return jnp.where(use, binomial_log_lik(events, n, p), 0.0).sum()


def _interval_draw(k: Array, a: Arguments, x: Array) -> Array:
    use = jnp.isfinite(x)
    drawn = crude.simulate(k, jnp.where(use, a["n"], 1.0), jnp.where(use, a["p"], 0.5))
    return jnp.where(use, drawn, jnp.nan)


def _landmark_draw(k: Array, a: Arguments, x: Array) -> Array:
    size = landmark.printed_size(x, a["low"], a["high"], a["n"])
    return landmark.simulate(k, a["hazard"], a["y"], a["n"], a["q"], size)


def _landmark_centre(a: Arguments) -> Array:
    centre = jax.vmap(landmark.expected)(a["hazard"], a["q"])
    return jnp.where(a["q"].sum(axis=2) > 0, centre, jnp.nan)


_COUNT = {
    "log_lik": lambda x, a: crude.log_lik(x, a["n"], a["p"]),
    "simulate": lambda k, a, x: crude.simulate(k, a["n"], a["p"]),
    "centre": lambda a: a["p"] * a["n"],
}
_NORMAL = {
    "log_lik": lambda x, a: contrast.log_lik(x, a["se"], a["b"]),
    "simulate": lambda k, a, x: contrast.simulate(k, a["se"], a["b"]),
    "centre": lambda a: a["b"],
}
FAMILY: dict[str, Family] = {
    "crude": Family(_crude, **_COUNT),
    "split": Family(
        _split,
        lambda x, a: split.log_lik(x, a["shares"]),
        lambda k, a, x: split.simulate(k, a["total"], a["shares"]),
        lambda a: a["shares"] * a["total"][:, None],
    ),
    "completion": Family(_completion, **_COUNT),
    "median": Family(
        _median,
        lambda x, a: median.log_lik(*_median_arguments(x, a)),
        lambda k, a, x: median.simulate(
            k, a["hazard"], a["y"], a["n"], a["t"], a["last"], sd_log(a["low"], a["high"], x)
        )[0],
        lambda a: jax.vmap(lambda h, t: median.expected(h, t)[0])(a["hazard"], a["t"]),
    ),
    "landmark": Family(
        _landmark,
        lambda x, a: landmark.log_lik(x, a["hazard"], a["y"], a["n"], a["q"], a["low"], a["high"]),
        _landmark_draw,
        _landmark_centre,
    ),
    "interval": Family(_interval, _interval_log_lik, _interval_draw, lambda a: a["p"] * a["n"]),
    # given the reference arm's own number; a replicate is drawn from its marginal law
    "hazard_ratio": Family(
        _hazard_ratio, **_NORMAL | {"log_lik": lambda x, a: contrast.log_lik(x, a["se"], a["b"], a["z"], a["rho"])}
    ),
    "rate_ratio": Family(_rate_ratio, **_NORMAL),
    "ratio": Family(_ratio, **_NORMAL),
    "rate": Family(
        _rate,
        lambda x, a: rate.log_lik(x, a["n"], a["mean"], a["low"], a["high"], a["sd"]),
        lambda k, a, x: rate.simulate(k, a["n"], a["mean"], _printed_or(sd_log(a["low"], a["high"], x), a["sd"])),
        lambda a: a["mean"],
    ),
    "incidence": Family(_incidence, **_COUNT),
    "incidence_curve": Family(
        _incidence_curve,
        lambda x, a: incidence.km_log_lik(x, a["curve"], a["n"], a["tau"]),
        lambda k, a, x: incidence.km_simulate(k, a["curve"], a["n"], a["tau"]),
        lambda a: a["curve"],
    ),
    "prevalence": Family(_prevalence, **_COUNT),
    "responder": Family(_responder, **_COUNT),
    # no number of its own: its log likelihood is what the correlations add to those of its members
    "patient_set": Family(
        _patient_set, _together, lambda k, a, x: jnp.zeros_like(x), lambda a: jnp.zeros(a["z"].shape[0])
    ),
    "marker": Family(
        _marker,
        lambda x, a: marker.log_lik(x, a["n"], a["mu"], a["spread"], a["mean"] > 0),
        lambda k, a, x: marker.simulate(k, a["n"], a["mu"], a["spread"], a["mean"] > 0),
        lambda a: 100.0 * jnp.expm1(marker.expected(a["mu"], a["spread"], a["mean"] > 0)),
    ),
}


def expected(
    values: Mapping[str, Array], cells: CellHazards, data: Mapping[str, Any], t: Array, shared: bool = False
) -> dict[str, Arguments]:
    """Arguments of each family's likelihood, one leading entry an outcome.

    Parameters
    ----------
    values
        Parameters on the natural scale.
    cells
        Hazards of the cells.
    data
        ``arms`` (by kind), ``rows`` (by family) and ``observed`` (needed for the correlation of a hazard ratio with its
        reference arm's own number).
    t
        Output times, years.
    shared
        Whether the frailty of skeletal events multiplies death too.
    """
    context = Context(values, cells, data, t, shared)
    out: dict[str, Arguments] = {}
    for family, f in FAMILY.items():
        if family in data["rows"]:
            others = (out,) if family in ("hazard_ratio", "patient_set") else ()
            out[family] = f.expected(context, data["rows"][family], *others)
    return out


def log_lik(family: str, observed: Array, a: Mapping[str, Array]) -> Float[Array, " outcome"]:
    """Log likelihood of each outcome of a family; -inf where a cell could not be solved (``failed`` among the arguments)."""
    found = jax.vmap(FAMILY[family].log_lik)(observed, dict(a))
    return jnp.where(a["failed"] > 0, -jnp.inf, found) if "failed" in a else found


def weighted(family: str, observed: Array, a: Mapping[str, Array], weights: Array) -> Float[Array, " outcome"]:
    """Log likelihood of each outcome times its weight; what has weight 0 adds nothing, a failed solve has none (-inf)."""
    terms = weights * log_lik(family, observed, {k: v for k, v in a.items() if k != "failed"})
    terms = jnp.where(weights > 0, terms, 0.0)
    return jnp.where(a["failed"] > 0, -jnp.inf, terms) if "failed" in a else terms


def simulate(family: str, key: Array, a: Mapping[str, Array], observed: Array) -> Array:
    """Replicate of each observed number of a family (same shape as ``observed``).

    Whether a printed interval exists is part of the design and stays.
    """
    keys = jax.random.split(key, observed.shape[0])
    return jax.vmap(FAMILY[family].simulate)(keys, dict(a), observed)


def centre(family: str, a: Mapping[str, Array]) -> Array:
    """Expected value of each outcome on the scale of the observed numbers."""
    return FAMILY[family].centre(dict(a))


def as_printed(family: str, block: str, value: np.ndarray, n: np.ndarray | float = 1.0) -> np.ndarray:
    """Observed or replicated numbers on the printed scale: shares, months, ratios, rates, per cent."""
    if family in (*COUNTS, "split", "interval"):
        return value / n
    if family == "median":
        return value * 12.0
    if family in ("hazard_ratio", "rate_ratio") or (family == "ratio" and block.endswith("odds")):
        return np.exp(value)
    return value
