"""Posterior predictions of regimens: event probabilities, contrasts, and how much of each is data.

Predictions are *population-mean* predictions for a named reference population (a study's patients, by its study effects) and
state a dropout-free estimand: "P(SRE by 24 months)" is cumulative incidence with death competing and no dropout.
"""

# pandas rows and xarray labels are untyped: their attributes and arguments cannot be checked
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportReturnType=false, reportAssignmentType=false

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Array

from osteobayes import solve
from osteobayes.cycle import Cell, Regimen
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.fit import Posterior, Run
from osteobayes.fit.result import CHUNK, map_chunks
from osteobayes.model import Model
from osteobayes.model.curves import death_effect, effect_vectors
from osteobayes.observe import (
    alive,
    cumulative,
    interpolation,
    median,
    mixed_hazard,
    observable,
    quadrature,
    rate,
)
from osteobayes.observe.hazards import ascertainment, sre_level
from osteobayes.precision import jit
from osteobayes.schema import CANCERS, COMPONENTS, DETECTIONS, TRIALS, Study, did_you_mean

ESTIMANDS = {
    "p_sre": "P(at least one SRE by the horizon), death competing",
    "median_sre": "median time to first SRE, months (Kaplan-Meier)",
    "mean_sre": "mean SREs per patient by the horizon",
    "survival": "P(alive at the horizon)",
    "marker_change": "resorption marker change at week 13, per cent",
}
GRADES = ("prior-only", "partly", "trial-calibrated")
DRAWS = 1000
"""Draws of the posterior, and of the prior, that predictions use: the ratio of two interval widths is then known to about 4 %."""
MARKER_YEARS = 13 * 7 / 365.25
POPULATIONS = {"breast": "stopeck2010_136", "prostate": "saad2002_p039", "lung": "henry2011_244"}
"""Reference populations of the default table."""
DEFAULT_REGIMENS = (
    "placebo",
    "zoledronic acid",
    "denosumab",
    "denosumab + galunisertib",
    "denosumab + fresolimumab",
)
COMPARATOR = "denosumab"
"""Comparator of the default table."""
EXTRA_REGIMEN = {"breast": "pamidronate", "prostate": "radium-223 + denosumab", "lung": "denosumab + pembrolizumab"}


@dataclass(frozen=True)
class Scenario:
    """One cell in one reference population."""

    cell: Cell
    population: str


@dataclass(frozen=True)
class Prediction:
    """Predictions of several regimens against one comparator.

    Attributes
    ----------
    table
        One row a regimen: each estimand with its 90 % interval; against the comparator the risk difference, the risk ratio
        and the rate ratio (mean SREs per patient) with theirs; the grade of the contrast and its contraction; the width of
        the interval of the log rate ratio over its width under the prior (``width_of_prior``), and the same of the log
        risk ratio. Grade and contraction are of the log rate ratio: a risk ratio is bounded by how near to 1 the risk
        itself is, so it narrows when only the baseline hazard is learned.
    draws
        Draws of every estimand: ``<estimand>_posterior`` and ``<estimand>_prior`` (dims draw, regimen), of the regimens of the table
        and of those that its contrasts are graded by.
    cancer, population, versus, horizon_months
        What the numbers are about.
    """

    table: pd.DataFrame
    draws: xr.Dataset
    curves: xr.DataArray
    cancer: str
    population: str
    versus: str
    horizon_months: float

    def __str__(self) -> str:
        lines = [f"{self.cancer}, population {self.population}, {self.horizon_months:g} months, against {self.versus}:"]
        for row in self.table.itertuples():
            lines.append(
                f"  {row.regimen}: P(SRE) {row.p_sre:.2f} [{row.p_sre_low:.2f}, {row.p_sre_high:.2f}], "
                f"risk difference {row.risk_difference:+.3f} [{row.risk_difference_low:+.3f}, {row.risk_difference_high:+.3f}] ({row.grade})"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format="%.3f", index=False)


def population_arrays(model: Model, population: str, cancer: str) -> dict[str, np.ndarray]:
    """Event definition and effect indices of a reference population.

    Raises
    ------
    OsteobayesError
        If no fitted study has that name, or it holds no patients of the cancer.
    """
    studies = model.evidence.studies
    if population not in studies:
        raise OsteobayesError(f"no study is called {population!r}; {did_you_mean(population, studies)}")
    study: Study = studies[population]
    cancers = {c for a in study.arms for c, _, _ in study.members(a.id)}
    if cancer not in cancers:
        raise OsteobayesError(
            f"population {population!r} has no {cancer} patients; it has {', '.join(sorted(map(str, cancers)))}"
        )
    event = study.events.get("SRE") or next(iter(study.events.values()), None)
    if event is None:
        raise OsteobayesError(f"population {population!r} defines no skeletal event; choose a study with SRE outcomes")
    counted, detection = np.zeros(len(COMPONENTS)), np.zeros(len(DETECTIONS))
    counted[[COMPONENTS.index(c) for c in event.components]] = 1.0
    detection[DETECTIONS.index(event.detection)] = 1.0

    def index(dims: Sequence[str], registry: str) -> int:
        levels = [level for d in dims for level in model.coords[d]]
        if population in levels:
            return levels.index(population) + 1
        name = f"{population} {registry}"
        if name in model.coords["study_registry"]:
            return len(levels) + model.coords["study_registry"].index(name) + 1
        raise OsteobayesError(
            f"population {population!r} was not fitted in this run; choose one of {', '.join(model.coords['study_sre'])}"
        )

    chosen = model.coords["study_entry"]
    return {
        "counted": counted, "detection": detection, "sre": np.array(index(["study_sre"], "SRE"), dtype=np.int32),
        "death": np.array(index(["study_os", "study_os_unseen"], "OS"), dtype=np.int32),
        "trial": np.array(float(study.design in TRIALS)),
        "entry": np.array(chosen.index(population) + 1 if population in chosen else 0, dtype=np.int32),
    }  # fmt: skip


def _draws(run: Run | Posterior, group: str, limit: int | None, model: Model | None = None) -> dict[str, np.ndarray]:
    """Parameters of the stored draws, flattened [draw, ...]; thinned evenly to ``limit``.

    A potency that the run does not know (``model`` has agents that came after it) is drawn from its prior.
    """
    dataset = run.tree[group].to_dataset()
    names = [n for n in dataset.data_vars if n in run.model.priors.parameters]
    flat = {n: dataset[n].to_numpy().reshape(-1, *dataset[n].shape[2:]) for n in names}
    n = len(next(iter(flat.values())))
    keep = np.arange(n) if limit is None or n <= limit else np.linspace(0, n - 1, limit).astype(int)
    found = {k: v[keep] for k, v in flat.items()}
    new = [p for p in (model or run.model).potencies[1:] if p not in run.model.priors.parameters]
    if model is not None and (new := [p for p in new if model.priors[p].sampled]):
        hyper = model.priors.only(new).hyper(model.coords)
        keys = jax.random.split(jax.random.key(0), len(keep))
        drawn = jax.vmap(lambda key: model.priors.only(new).sample(key, hyper, model.coords))(keys)
        found |= {n: np.asarray(x) for n, x in model.priors.only(new).values(drawn, hyper).items()}
    return found


def _constants(model: Model) -> dict[str, Any]:
    fixed = [n for n, p in model.priors.parameters.items() if not p.sampled]
    return {n: x["value"] for n, x in model.priors.only(fixed).hyper(model.coords).items()}


def simulate(
    run: Run | Posterior,
    scenarios: Sequence[Scenario],
    horizon_months: float,
    group: str,
    limit: int | None = DRAWS,
    model: Model | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Estimands [draw, scenario] and cumulative incidence curves [draw, scenario, time] for stored draws of a group."""
    mapped = _simulator(run) if model is None else jit(partial(_simulate_chunk, model))
    fixed, draws = _question(model or run.model, scenarios, horizon_months), _draws(run, group, limit, model)
    return map_chunks(lambda chunk: mapped(fixed, chunk), draws, len(next(iter(draws.values()))), 2)


def _simulator(run: Run | Posterior):
    """The compiled program of a run; what is asked is an argument, so it serves every cancer and population with as many cells."""
    memory = run._memory.get("programs", run._memory)
    return memory.setdefault("simulate", jit(partial(_simulate_chunk, run.model)))


def _question(model: Model, scenarios: Sequence[Scenario], horizon_months: float) -> dict[str, Any]:
    """What is asked, as arrays."""
    t = model.grid.years
    cells = list(dict.fromkeys(s.cell for s in scenarios))
    pops = [population_arrays(model, s.population, s.cell.cancer) for s in scenarios]
    years = horizon_months / 12.0
    return {
        "arrays": model.pack(cells),
        "design": jnp.asarray(model.discrepancy_design(cells)),
        "pop": {k: jnp.asarray(np.stack([p[k] for p in pops])) for k in pops[0]},
        "which": jnp.asarray([cells.index(s.cell) for s in scenarios]),
        "q": jnp.asarray(quadrature(t, years)),
        "p_end": jnp.asarray(interpolation(t, years)),
        "p13": jnp.asarray(interpolation(t, MARKER_YEARS)),
    }


def _simulate_chunk(
    model: Model, fixed: Mapping[str, Any], draws: Mapping[str, Array]
) -> tuple[dict[str, Array], Array]:
    """Estimands and cumulative incidence of every scenario for a chunk of draws (leading axis)."""
    arrays, design, pop, which = (fixed[k] for k in ("arrays", "design", "pop", "which"))
    q, p_end, p13 = (fixed[k] for k in ("q", "p_end", "p13"))
    tj, constants = jnp.asarray(model.grid.years), _constants(model)

    def one(values: Mapping[str, Any]):
        v = {**constants, **values}
        hazards, path = model.cell_hazards(v, arrays, design)
        effects = effect_vectors(v)
        level = sre_level(v["sre_baseline"][arrays.cancer[which]] + effects["sre"][pop["sre"]], v)
        factor = pop["counted"] * ascertainment(pop["detection"], v) * level[:, None]
        sre = (hazards.sre[which] * factor[..., None]).sum(axis=1)
        death = hazards.death[which] * jnp.exp(death_effect(effects, v, pop["death"], pop["trial"], pop["entry"], tj))

        def scenario(h, d):
            obs = observable(h[None, None], d[None], v["frailty"], tj, model.shared_frailty)
            flow = obs.hazard[0, 0] * obs.at_risk[0]
            ones = jnp.ones(1)
            km, _ = mixed_hazard(obs, ones)
            full = jnp.ones_like(tj)
            mid, reached = median.expected(km[0], tj)
            living = alive(d, v["frailty"], tj, model.shared_frailty)
            count = rate.mean_count(h[None, None], d[None], v["frailty"], ones, full, q, tj, model.shared_frailty)
            return flow @ q, jnp.where(reached, 12.0 * mid, jnp.inf), count, living @ p_end, cumulative(flow, tj)

        p_sre, mid, count, survival, curve = jax.vmap(scenario)(sre, death)
        share = v["marker_lesion_share"]
        lesion = (path.flux.T @ p13) / path.flux[0]
        skeleton = (path.skeleton_flux.T @ p13) / path.skeleton_flux[0]
        marker = 100.0 * (share * lesion + (1.0 - share) * skeleton - 1.0)
        out = {
            "p_sre": p_sre,
            "median_sre": mid,
            "mean_sre": count,
            "survival": survival,
            "marker_change": marker[which],
        }
        solved = (path.status == solve.OK)[which]
        return {k: jnp.where(solved, x, jnp.nan) for k, x in out.items()}, jnp.where(solved[:, None], curve, jnp.nan)

    return jax.lax.map(one, draws)


def evidence_for(model: Model, agent_class: str, kind: str = "SRE") -> dict[str, list[str]]:
    """Fitted studies of an agent class: randomised with that endpoint kind, and others."""
    table = model.packed.table
    has = table[[agent_class in c for c in table["classes"]]]
    randomised = []
    for study, rows in has[(has["kind"] == kind) & (has["design"] == "randomised")].groupby("study"):
        arms = table[(table["study"] == study) & (table["kind"] == kind)]
        if len(set(arms["classes"])) > 1 or rows["arm"].nunique() > 1 or (rows["versus"] != "").any():
            randomised.append(str(study))
    return {"randomised": randomised, "other": sorted(set(has["study"]) - set(randomised))}


def _grade(model: Model, agent: str, contraction: float) -> str:
    found = evidence_for(model, model.catalogue.agents[agent].agent_class)
    if not found["randomised"] and not found["other"]:
        return "prior-only"  # leaving the class out changes nothing: what contracted is shared with other classes
    if found["randomised"]:
        return "trial-calibrated" if contraction >= 0.5 else "partly"
    return "partly" if contraction >= 0.2 else "prior-only"


def _randomised_together(model: Model, agents: set[str]) -> bool:
    for study in model.evidence.studies.values():
        if study.design != "randomised":
            continue
        for arm in study.arms:
            for _, regimen, _ in study.members(arm.id):
                if regimen and agents <= set(Regimen.parse(regimen, model.catalogue).agents):
                    return True
    return False


def _width(x: np.ndarray) -> float:
    low, high = np.nanquantile(x, [0.05, 0.95])
    return float(high - low)


def _scenarios(
    model: Model, asked: Sequence[Regimen], base: Regimen, cancer: str, population: str
) -> tuple[dict[Regimen, dict[str, Regimen]], list[Scenario]]:
    """Each regimen without each of its agents that the comparator lacks; and all scenarios, the comparator first."""
    variants = {r: {a: r.without(a) for a in r.agents if a not in base.agents} for r in asked}
    needed = dict.fromkeys([base, *asked, *(w for v in variants.values() for w in v.values())])
    study = model.evidence.studies.get(population)
    pretreatment = study.population.pretreatment if study else "none"
    return variants, [Scenario(Cell(cancer, r, pretreatment), population) for r in needed]


def predict(
    run: Run | Posterior,
    regimens: Sequence[str | Regimen] | str,
    cancer: str,
    population: str,
    versus: str | Regimen = "zoledronic acid",
    horizon_months: float = 24.0,
    draws: int | None = DRAWS,
    anyway: bool = False,
    therapies: str | Path | None = None,
) -> Prediction:
    """Predict regimens in a cancer and a named reference population, each against a comparator.

    Parameters
    ----------
    run
        A finished run, or draws of any sampler (``Posterior.of(model, tree)``).
    regimens
        Regimens as text (or one).
    cancer
        One of :data:`osteobayes.schema.CANCERS`.
    population
        Study id whose patients are the reference population.
    versus
        Comparator.
    horizon_months
        Horizon of probabilities and counts.
    draws
        Draws used (thinned evenly), or None for all.
    anyway
        Predict from a run that its diagnostics call unusable.
    therapies
        Folder of further agents (YAML as in ``priors/therapies``) that the run did not know; their potencies come from their
        priors.

    Returns
    -------
    Prediction

    Raises
    ------
    RunError
        If the run may not be used (unless ``anyway``) or the horizon is beyond the model's grid.
    RegimenError, OsteobayesError
        Unknown agent, cancer or population.
    """
    model = run.model if therapies is None else run.model.with_therapies(therapies)
    if not run.diagnostics["usable"] and not anyway:
        raise RunError(f"{run.path}: {run.diagnostics['sentence']} Predict from it with `--anyway` (anyway=True)")
    if cancer not in CANCERS:
        raise OsteobayesError(f"no cancer is called {cancer!r}; {did_you_mean(cancer, CANCERS)}")
    last = float(model.grid.years[-1]) * 12
    if not 0 < horizon_months <= last:
        raise RunError(f"the horizon must lie between 0 and {last:.0f} months, found {horizon_months:g}")
    every = [regimens] if isinstance(regimens, str | Regimen) else regimens
    asked, base = [Regimen.parse(r, model.catalogue) for r in every], Regimen.parse(versus, model.catalogue)
    variants, scenarios = _scenarios(model, asked, base, cancer, population)
    needed = [s.cell.regimen for s in scenarios]
    sets, curves = {}, {}
    for group in ("posterior", "prior"):
        sets[group], curves[group] = simulate(
            run, scenarios, horizon_months, group, draws, None if therapies is None else model
        )
    at = {r: i for i, r in enumerate(needed)}

    def log_ratio(group: str, a: Regimen, b: Regimen, estimand: str = "mean_sre") -> np.ndarray:
        x = sets[group][estimand]
        return np.log(x[:, at[a]]) - np.log(x[:, at[b]])

    def share_of_prior(a: Regimen, b: Regimen, estimand: str = "mean_sre") -> float:
        """Width of the 90 % interval of a log ratio over its width under the prior."""
        wide = _width(log_ratio("prior", a, b, estimand))
        return _width(log_ratio("posterior", a, b, estimand)) / wide if wide > 0 else np.nan

    rows = []
    for r in asked:
        failed = np.isnan(sets["posterior"]["p_sre"][:, at[r]])
        row: dict[str, Any] = {"regimen": str(r), "failed_draws": int(failed.sum())}
        if failed.mean() > 0.01:
            raise RunError(
                f"{failed.sum()} of {len(failed)} draws of `{r}` could not be solved; "
                "fit with a finer grid (more substeps), or check the dose"
            )
        for name in ESTIMANDS:
            x = sets["posterior"][name][:, at[r]][~failed]
            row[name], row[f"{name}_low"], row[f"{name}_high"] = np.quantile(x, [0.5, 0.05, 0.95], method="nearest")
        difference = sets["posterior"]["p_sre"][:, at[r]] - sets["posterior"]["p_sre"][:, at[base]]
        row["risk_difference"], row["risk_difference_low"], row["risk_difference_high"] = np.nanquantile(
            difference, [0.5, 0.05, 0.95]
        )
        for name, estimand in (("risk_ratio", "p_sre"), ("rate_ratio", "mean_sre")):
            ratio = np.exp(log_ratio("posterior", r, base, estimand))
            row[name], row[f"{name}_low"], row[f"{name}_high"] = np.nanquantile(ratio, [0.5, 0.05, 0.95])
        grades, contractions = [], []
        changed = [(a, r, without) for a, without in variants[r].items()]
        changed += [(a, base, base.without(a)) for a in base.agents if a not in r.agents and base.without(a) in at]
        for agent, with_it, without in changed:
            share = share_of_prior(with_it, without)
            c = 0.0 if np.isnan(share) else 1.0 - share
            contractions.append(c)
            grades.append(_grade(model, agent, c))
        new = set(variants[r])
        if r == base:
            grade = "comparator"
        else:
            level = min((GRADES.index(g) for g in grades), default=GRADES.index("partly"))
            if len(r.agents) > 1 and new and not _randomised_together(model, set(r.agents)):
                level = min(level, GRADES.index("partly"))
            grade = GRADES[level]
        row["grade"] = grade
        row["contraction"] = min(contractions, default=np.nan)
        row["width_of_prior"], row["risk_width_of_prior"] = share_of_prior(r, base), share_of_prior(r, base, "p_sre")
        rows.append(row)
    names = [str(r) for r in needed]
    data = xr.Dataset(
        {f"{name}_{group}": ((f"draw_{group}", "regimen"), sets[group][name]) for group in sets for name in ESTIMANDS},
        coords={"regimen": names},
    )
    shown = xr.DataArray(
        curves["posterior"][:, [at[r] for r in asked]], dims=("draw", "regimen", "months"),
        coords={"regimen": [str(r) for r in asked], "months": 12.0 * model.grid.years},
    )  # fmt: skip
    return Prediction(pd.DataFrame(rows), data, shown, cancer, population, str(base), horizon_months)


def default_predictions(
    run: Run, cancers: Sequence[str] | None = None, horizon_months: float = 24.0, anyway: bool = True
) -> list[Prediction]:
    """Six regimens in each cancer that the run fitted, against denosumab (so that a combination isolates what it adds)."""
    return [
        predict(run, regimens, cancer, population, COMPARATOR, horizon_months, anyway=anyway)
        for cancer, population, regimens in _default_questions(run.model, cancers)
    ]


def _default_questions(model: Model, cancers: Sequence[str] | None) -> list[tuple[str, str, list[str]]]:
    populations = {c: POPULATIONS.get(c, "") for c in cancers or POPULATIONS}
    fitted = {c: p for c, p in populations.items() if p in model.coords["study_sre"]}
    return [(c, p, [*DEFAULT_REGIMENS, EXTRA_REGIMEN[c]]) for c, p in fitted.items()]


def headline_estimands(model: Model, horizon_months: float = 24.0) -> Callable[[Mapping[str, np.ndarray]], xr.Dataset]:
    """Function from draws of the parameters to what the default questions ask, compiled once.

    Parameters
    ----------
    model
        The model.
    horizon_months
        Horizon of the predictions.

    Returns
    -------
    function
        Takes parameters on the natural scale [draw, ...] and gives ``p_sre, mean_sre, survival, marker_change`` and
        ``log_rate_ratio`` (of mean SREs per patient, against the comparator) as a dataset with dims draw and ``question``
        (cancer and regimen); draws whose cells cannot be solved are missing, and the comparator's own ratio.
    """
    program = jit(partial(_simulate_chunk, model))
    questions = []
    for cancer, population, regimens in _default_questions(model, None):
        asked, base = ([Regimen.parse(r, model.catalogue) for r in x] for x in (regimens, [COMPARATOR]))
        named = list(dict.fromkeys([base[0], *asked]))
        scenarios = _scenarios(model, asked, base[0], cancer, population)[1][: len(named)]
        questions.append((cancer, named, _question(model, scenarios, horizon_months)))

    def estimands(values: Mapping[str, np.ndarray]) -> xr.Dataset:
        draws = {n: jnp.asarray(x) for n, x in values.items() if model.priors[n].sampled}
        found = []
        for cancer, named, fixed in questions:
            out = {k: np.asarray(x) for k, x in program(fixed, draws)[0].items() if k != "median_sre"}
            ratio = np.log(out["mean_sre"] / out["mean_sre"][:, :1])
            out["log_rate_ratio"] = np.where(np.arange(len(named)) > 0, ratio, np.nan)
            labels = [f"{cancer}: {r}" for r in named]
            found.append(xr.Dataset({k: (("draw", "question"), x) for k, x in out.items()}, {"question": labels}))
        return xr.concat(found, "question")

    return estimands


def prepare(run: Run, cancers: Sequence[str] | None = None, horizon_months: float = 24.0) -> None:
    """Compile what :func:`default_predictions` runs (the run need not be finished), on draws of the prior."""
    model = run.model
    for cancer, population, regimens in _default_questions(model, cancers)[:1]:
        asked, base = ([Regimen.parse(r, model.catalogue) for r in x] for x in (regimens, [COMPARATOR]))
        _, scenarios = _scenarios(model, asked, base[0], cancer, population)
        values = [model.values(model.draw_prior(jax.random.key(i), model.data), model.data) for i in range(CHUNK)]
        draws = {n: jnp.stack([v[n] for v in values]) for n in values[0] if model.priors[n].sampled}
        _simulator(run)(_question(model, scenarios, horizon_months), draws)
