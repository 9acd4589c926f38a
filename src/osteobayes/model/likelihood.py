"""Joins trajectories, hazards and published numbers: what each family of outcomes expects under given parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osteobayes.evidence.pack import ONSET_YEARS, Arms
from osteobayes.observe import (
    alive,
    completion,
    contrast,
    crude,
    incidence,
    median,
    mixed_death,
    mixed_hazard,
    observable,
    progression,
    rate,
    split,
)
from osteobayes.observe.grid import cumulative
from osteobayes.observe.hazards import CellHazards, ascertainment, sre_level

PROGRESSION_STRIDE = 2
"""The progression law compares all pairs of times, so it runs on every second output time."""


RHO_MEDIAN = {"SRE": contrast.RHO_MEDIAN_SRE, "OS": contrast.RHO_MEDIAN_SURVIVAL, "PFS": contrast.RHO_MEDIAN_SURVIVAL}


class Curves(NamedTuple):
    """One kind of curve of each arm: observable total hazard, at-risk share (no censoring), stay G."""

    hazard: Float[Array, "arm time"]
    at_risk: Float[Array, "arm time"]
    member_hazard: Float[Array, "arm member time"]
    member_at_risk: Float[Array, "arm member time"]
    stay: Float[Array, "arm time"]


def effect_vectors(values: Mapping[str, Array]) -> dict[str, Array]:
    """Study effects as vectors whose entry 0 is no effect; registries stand behind trials."""

    def get(name: str) -> Array:
        return jnp.atleast_1d(values[name]) if name in values else jnp.zeros(0)

    zero = jnp.zeros(1)
    return {
        "sre": jnp.concatenate([zero, get("sre_study"), get("registry_study")]),
        "death": jnp.concatenate([zero, get("os_study"), get("os_study_unseen")]),
        "progression": jnp.concatenate([zero, get("pfs_study")]),
        "registry": jnp.concatenate([zero, get("registry_study")]),
        "contrast": jnp.concatenate([zero, get("effect_study")]),
        "dropout": jnp.concatenate([zero, get("dropout_study")]),
    }


def stay(arms: Arms, values: Mapping[str, Array], effects: Mapping[str, Array], t: Array) -> Float[Array, "arm time"]:
    """G(t): no dropout yet and under administrative follow-up; registries have no dropout."""
    dropout = jnp.where(arms.dropout > 0, values["dropout"] * jnp.exp(effects["dropout"][arms.dropout]), 0.0)
    return arms.administrative * jnp.exp(-dropout[:, None] * t)


def counted_levels(
    arms: Arms, cells: CellHazards, values: Mapping[str, Array], effects: Mapping[str, Array]
) -> tuple[Float[Array, "definition component"], Float[Array, "arm member"]]:
    """Ascertainment of the counted components by event definition, and the level of each arm member's hazards."""
    baseline = values["sre_baseline"][cells.cancer[arms.cell]] + effects["sre"][arms.sre_effect][:, None]
    level = sre_level(baseline, values) * jnp.exp(effects["contrast"][arms.contrast])[:, None]
    return arms.counted * ascertainment(arms.detection, values), level


def component_hazards(
    arms: Arms, cells: CellHazards, values: Mapping[str, Array], effects: Mapping[str, Array]
) -> Float[Array, "arm member component time"]:
    """Hazards of the counted components of SRE arms after study effects and ascertainment."""
    factor, level = counted_levels(arms, cells, values, effects)
    return cells.sre[arms.cell] * (factor[arms.definition][:, None, :] * level[:, :, None])[..., None]


def total_hazards(
    arms: Arms, cells: CellHazards, values: Mapping[str, Array], effects: Mapping[str, Array]
) -> Float[Array, "arm member time"]:
    """Sum of :func:`component_hazards`, by way of the few distinct event definitions."""
    factor, level = counted_levels(arms, cells, values, effects)
    by_definition = jnp.einsum("dk,ckt->dct", factor, cells.sre)
    return by_definition[arms.definition[:, None], arms.cell] * level[..., None]


def member_death(arms: Arms, cells: CellHazards, effects: Mapping[str, Array], treated: bool = False) -> Array:
    """Death hazard of arm members after study effects [arm, member, time]."""
    log_effect = effects["death"][arms.death_effect]
    if treated:
        log_effect = log_effect + effects["contrast"][arms.contrast]
    return cells.death[arms.cell] * jnp.exp(log_effect)[:, None, None]


def sre_curves(arms: Arms, cells: CellHazards, values, effects, t: Array) -> Curves:
    """First skeletal event: Kaplan-Meier hazard and at-risk share (deaths censored)."""
    total = total_hazards(arms, cells, values, effects)[:, :, None]
    obs = jax.vmap(lambda h, d: observable(h, d, values["frailty"], t))(total, member_death(arms, cells, effects))
    hazard, at_risk = jax.vmap(mixed_hazard)(obs, arms.weight)
    return Curves(hazard[:, 0], at_risk, obs.hazard[:, :, 0], obs.at_risk, stay(arms, values, effects, t))


def death_curves(arms: Arms, cells: CellHazards, values, effects, t: Array) -> Curves:
    """Overall survival."""
    death = member_death(arms, cells, effects, treated=True)
    living = jax.vmap(lambda d: alive(d, values["frailty"], t))(death)
    hazard, at_risk = jax.vmap(mixed_death)(death, living, arms.weight)
    return Curves(hazard, at_risk, death, living, stay(arms, values, effects, t))


def progression_curves(arms: Arms, cells: CellHazards, values, effects, t: Array) -> Curves:
    """Progression-free survival: progression of the systemic burden or death."""
    coarse = t[::PROGRESSION_STRIDE]
    growth = cells.growth[arms.cell][..., ::PROGRESSION_STRIDE]
    law = jax.vmap(jax.vmap(lambda y: progression.hazard(y, coarse, values["progression_heterogeneity"])[0]))
    fine = law(growth) @ _between(t.shape[0])
    level = jnp.exp(effects["progression"][arms.progression_effect] + effects["contrast"][arms.contrast])
    hazard = fine * level[:, None, None] + member_death(arms, cells, effects)
    free = jnp.exp(-cumulative(hazard, t))
    mixed, at_risk = jax.vmap(mixed_death)(hazard, free, arms.weight)
    return Curves(mixed, at_risk, hazard, free, stay(arms, values, effects, t))


def _between(times: int) -> Float[np.ndarray, "coarse time"]:
    """Weights of linear interpolation from every :data:`PROGRESSION_STRIDE`-th time of a uniform grid to all."""
    coarse = np.arange(0, times, PROGRESSION_STRIDE)
    return np.stack([np.interp(np.arange(times), coarse, one) for one in np.eye(len(coarse))])


CURVES = {"SRE": sre_curves, "OS": death_curves, "PFS": progression_curves}


def quadrature_at(x: Array, t: Array) -> tuple[Array, Array]:
    """Quadrature and interpolation weights at a time ``x`` on a uniform grid, differentiable in ``x`` (see `observe.grid`)."""
    dt = t[1] - t[0]
    r = jnp.clip((x - t) / dt, -1.0, 1.0)
    q = dt * jnp.where(r <= 0, 0.5 * (1.0 + r) ** 2, 1.0 - 0.5 * (1.0 - r) ** 2)
    return q.at[0].add(-0.5 * dt), 1.0 - jnp.abs(r)


def expected(
    values: Mapping[str, Array], cells: CellHazards, data: Mapping[str, Any], t: Array
) -> dict[str, dict[str, Array]]:
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
    """
    arms, rows, observed = data["arms"], data["rows"], data["observed"]
    effects = effect_vectors(values)
    curves = {k: CURVES[k](a, cells, values, effects, t) for k, a in arms.items() if a.cell.shape[0]}
    out: dict[str, dict[str, Array]] = {}
    if "crude" in rows:
        r, c = rows["crude"], curves["SRE"]
        flow = jnp.einsum("am,amt,amt->at", arms["SRE"].weight, c.member_hazard, c.member_at_risk) * c.stay
        p = (flow[r.arm] * r.quadrature).sum(axis=1)
        out["crude"] = {"p": p, "n": r.n}
    if "split" in rows:
        r = rows["split"]
        a = arms["SRE"].at(r.arm)
        hazard, death = component_hazards(a, cells, values, effects), member_death(a, cells, effects)
        obs = jax.vmap(lambda h, d: observable(h, d, values["frailty"], t))(hazard, death)
        first = jax.vmap(crude.first_event)(obs, a.weight, curves["SRE"].stay[r.arm], r.quadrature)
        out["split"] = {"shares": jax.vmap(split.expected)(first), "total": r.total}
    if "completion" in rows:
        r = rows["completion"]
        a = arms["OS"].at(r.arm)
        dropout = jnp.exp(-values["dropout"] * jnp.exp(effects["dropout"][a.dropout]) * r.years)
        p = jax.vmap(completion.expected)(curves["OS"].member_at_risk[r.arm], a.weight, dropout, r.interpolation)
        out["completion"] = {"p": p, "n": r.n}
    if "median" in rows:
        blocks = []
        for kind, r in rows["median"].items():
            c = curves[kind]
            y = (c.at_risk * c.stay)[r.arm]
            blocks.append(
                {
                    "hazard": c.hazard[r.arm],
                    "y": y,
                    "n": r.n,
                    "low": r.low,
                    "high": r.high,
                    "reached": r.reached,
                    "last": r.last,
                }
            )
        out["median"] = jax.tree.map(lambda *x: jnp.concatenate(x), *blocks)
        out["median"]["t"] = jnp.broadcast_to(t, out["median"]["y"].shape)
    if "hazard_ratio" in rows:
        blocks = []
        residuals = {}
        if "crude" in out:
            residuals["crude"] = crude.residual(observed["crude"], out["crude"]["n"], out["crude"]["p"])
        if "median" in out:
            residuals["median"] = median_residual(observed["median"], out["median"])
        for kind, r in rows["hazard_ratio"].items():
            c, weight = curves[kind], arms[kind].weight
            y1 = c.member_at_risk[r.treated] * c.stay[r.treated][:, None]
            y0 = c.member_at_risk[r.reference] * c.stay[r.reference][:, None]
            b = jax.vmap(lambda l1, a1, l0, a0, q, p1, w: contrast.hazard_ratio(l1, a1, l0, a0, q, p1, w))(
                c.member_hazard[r.treated],
                y1,
                c.member_hazard[r.reference],
                y0,
                r.quadrature,
                r.allocation,
                weight[r.treated],
            )
            z = jnp.zeros_like(b)
            rho = r.has_crude * contrast.RHO_CRUDE + r.has_median * RHO_MEDIAN[kind]
            if "crude" in out:
                z = jnp.where(r.has_crude > 0, residuals["crude"][r.crude], z)
            if "median" in out:
                z = jnp.where(r.has_median > 0, residuals["median"][r.median], z)
            rho = jnp.clip(
                rho * jnp.sqrt(2.0 * r.allocation), -0.9, 0.9
            )  # the reference arm's share of the contrast's variance
            blocks.append({"b": b, "se": r.se, "rho": rho, "z": z})
        out["hazard_ratio"] = jax.tree.map(lambda *x: jnp.concatenate(x), *blocks)
    if "rate" in rows:
        r = rows["rate"]
        a = arms["SRE"].at(r.arm)
        hazard, death = component_hazards(a, cells, values, effects), member_death(a, cells, effects)
        mean = jax.vmap(lambda h, d, w, g, q: rate.mean_rate(h, d, values["frailty"], w, g, q, t))(
            hazard, death, a.weight, curves["SRE"].stay[r.arm], r.quadrature
        )
        out["rate"] = {"mean": mean, "n": r.n, "low": r.low, "high": r.high}
    if "incidence" in rows:
        r = rows["incidence"]
        effect = effects["registry"][r.effect]
        at_diagnosis = jax.nn.sigmoid(values["onset_at_diagnosis"][r.onset] + effect)
        scale = jnp.exp(values["onset_hazard"][r.onset] + effect)
        later = jax.vmap(
            lambda s, d, g: incidence.metachronous_crude(s, values["onset_shape"], d, g, jnp.asarray(ONSET_YEARS))
        )(scale, values["registry_death"][r.cancer], r.stay)
        out["incidence"] = {"p": jnp.where(r.metachronous > 0, later, at_diagnosis), "n": r.n}
    if "incidence_curve" in rows:
        r = rows["incidence_curve"]
        effect = effects["registry"][r.effect]
        p0 = jax.nn.sigmoid(values["onset_at_diagnosis"][r.onset] + effect)
        scale = jnp.exp(values["onset_hazard"][r.onset] + effect)
        curve = jax.vmap(lambda years, s, p: incidence.km_curve(years, s, values["onset_shape"], p))(r.years, scale, p0)
        out["incidence_curve"] = {"curve": curve, "n": r.n, "tau": jnp.full_like(r.n, 1.0) * values["residual_sd"]}
    return out


def _median_arguments(x: Array, a: Mapping[str, Array]) -> tuple:
    q, p = quadrature_at(x, a["t"])
    return a["hazard"], a["y"], a["n"], a["t"], x, q, p, a["low"], a["high"], a["reached"] > 0


def median_residual(x: Array, a: Mapping[str, Array]) -> Array:
    """Standardised residual of each observed median."""
    return jax.vmap(lambda x, a: median.residual(*_median_arguments(x, a)))(x, dict(a))


def _sd_log(low: Array, high: Array, x: Array) -> Array:
    both = jnp.log(high / low) / 3.92
    lower = jnp.log(x / low) / 1.96
    return jnp.where(jnp.isfinite(both), both, jnp.where(jnp.isfinite(lower), lower, jnp.nan))


def log_lik(family: str, observed: Array, a: Mapping[str, Array]) -> Float[Array, " outcome"]:
    """Log likelihood of each outcome of a family."""
    if family in ("crude", "completion", "incidence"):
        return jax.vmap(crude.log_lik)(observed, a["n"], a["p"])
    if family == "split":
        return jax.vmap(split.log_lik)(observed, a["shares"])
    if family == "median":
        return jax.vmap(lambda x, a: median.log_lik(*_median_arguments(x, a)))(observed, dict(a))
    if family == "hazard_ratio":
        return jax.vmap(contrast.log_lik)(observed, a["se"], a["b"], a["z"], a["rho"])  # pyright: ignore[reportArgumentType]
    if family == "rate":
        return jax.vmap(rate.log_lik)(observed, a["n"], a["mean"], a["low"], a["high"])  # pyright: ignore[reportArgumentType]
    if family == "incidence_curve":
        return jax.vmap(incidence.km_log_lik)(observed, a["curve"], a["n"], a["tau"])  # pyright: ignore[reportArgumentType]
    raise ValueError(f"unknown family `{family}`")


def simulate(family: str, key: Array, a: Mapping[str, Array], observed: Array) -> Array:
    """Replicate of each observed number of a family (same shape as ``observed``).

    A hazard ratio is drawn from its marginal law; whether a printed interval exists is part of the design and stays.
    """
    keys = jax.random.split(key, observed.shape[0])
    if family in ("crude", "completion", "incidence"):
        return jax.vmap(crude.simulate)(keys, a["n"], a["p"])
    if family == "split":
        return jax.vmap(split.simulate)(keys, a["total"], a["shares"])
    if family == "median":
        sd = _sd_log(a["low"], a["high"], observed)
        draw = jax.vmap(lambda k, a, s: median.simulate(k, a["hazard"], a["y"], a["n"], a["t"], a["last"], s)[0])
        return draw(keys, dict(a), sd)
    if family == "hazard_ratio":
        return jax.vmap(contrast.simulate)(keys, a["se"], a["b"])
    if family == "rate":
        return jax.vmap(rate.simulate)(keys, a["n"], a["mean"])
    if family == "incidence_curve":
        return jax.vmap(incidence.km_simulate)(keys, a["curve"], a["n"], a["tau"])  # pyright: ignore[reportArgumentType]
    raise ValueError(f"unknown family `{family}`")


def centre(family: str, a: Mapping[str, Array]) -> Array:
    """Expected value of each outcome on the scale of the observed numbers."""
    if family in ("crude", "completion", "incidence"):
        return a["p"] * a["n"]
    if family == "split":
        return a["shares"] * a["total"][:, None]
    if family == "median":
        return jax.vmap(lambda h, t: median.expected(h, t)[0])(a["hazard"], a["t"])
    return {"hazard_ratio": lambda: a["b"], "rate": lambda: a["mean"], "incidence_curve": lambda: a["curve"]}[family]()


def as_printed(family: str, value: np.ndarray, n: np.ndarray | None = None) -> np.ndarray:
    """Observed or replicated numbers on the printed scale: shares, months, ratios, rates."""
    if family in ("crude", "completion", "incidence"):
        return value / n
    if family == "split":
        return value / n[..., None]  # pyright: ignore[reportOptionalSubscript]
    if family == "median":
        return value * 12.0
    return np.exp(value) if family == "hazard_ratio" else value
