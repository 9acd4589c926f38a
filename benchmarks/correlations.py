"""How the numbers of one trial go together, against the working correlations, and what ignoring that costs.

uv run python benchmarks/correlations.py [--json] [--trials 2000]      (about a minute on one core)

Trials of simulated patients, not of the observation models: two very different designs of equal arms and one of 2:1.
Prints (1) correlations of the logit crude proportion, log median, log mean count and log mean rate of either arm with
the log hazard ratio and the log Andersen-Gill ratio, beside those coded in `osteobayes.observe.contrast` and those of
STATISTICS 1.7; (2) the error of a fit that takes several numbers of one trial as independent; (3) a toy posterior of two
studies with a common effect from the reference arms' proportions and the hazard ratios, with and without correlation.
"""

import argparse
import functools
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "statistical"))
from scenarios import Scenario, late
from simulated import cox_ratios, first_events, medians, ratios, recurrent_events

from osteobayes.observe import contrast, crude, median, mixed_hazard, observable, quadrature, rate, recurrent

jax.config.update("jax_enable_x64", True)

NAMES = ("p0", "p1", "m0", "m1", "c0", "c1", "s0", "s1", "HR", "AG")
"""logit proportion, log median, log mean count, log mean rate of arms 0 (reference) and 1; log ratios 1 over 0."""
SURVIVAL = ("OS m0", "OS m1", "OS HR")
WORKING = {
    ("p0", "m0"): -0.74, ("p0", "c0"): 0.76, ("p0", "s0"): 0.49, ("m0", "c0"): -0.55, ("m0", "s0"): -0.34,
    ("c0", "s0"): 0.48, ("p0", "HR"): -0.63, ("m0", "HR"): 0.55, ("c0", "HR"): -0.51, ("s0", "HR"): -0.36,
    ("p0", "AG"): -0.48, ("m0", "AG"): 0.42, ("c0", "AG"): -0.65, ("s0", "AG"): -0.37, ("HR", "AG"): 0.80,
    ("p0", "p1"): 0.0, ("OS m0", "OS HR"): 0.61, ("OS m0", "m0"): 0.0, ("OS HR", "HR"): 0.0,
}  # fmt: skip
"""STATISTICS 1.7; those of arm 1 with the ratios have the opposite sign."""
CODED = {("p0", "HR"): "RHO_CRUDE", ("m0", "HR"): "RHO_MEDIAN_SRE", ("OS m0", "OS HR"): "RHO_MEDIAN_SURVIVAL"}


def design(name, hazard, effect, theta, shared, death, death_ratio, dropout, horizon, accrual, sizes) -> Scenario:
    """One component; ``hazard`` and ``effect`` functions of time."""
    t = np.linspace(0.0, horizon, 601)
    h, d = hazard(t), np.full(t.size, death)
    treated = h * effect(t)
    return Scenario(
        name, t, (h[None, None], treated[None, None]), (d[None], death_ratio * d[None]), np.ones(1), theta, shared,
        dropout, horizon, accrual, sizes, "",
    )  # fmt: skip


def flat(value):
    return lambda t: np.full_like(t, value)


DESIGNS = [
    design("long, staggered entry", flat(1.0), flat(0.65), 0.5, False, 0.35, 0.85, 0.15, 4.0, 1.0, (250, 250)),
    design(
        "short, front-loaded, delayed effect, shared frailty, heavy loss",
        lambda t: 1.4 + 1.6 * np.exp(-t / 0.3), lambda t: 1 - 0.4 * late(t, 0.3, 0.05), 1.0, True, 0.9, 0.8, 0.4, 2.0,
        0.0, (250, 250),
    ),
    design("the first, 2:1", flat(1.0), flat(0.65), 0.5, False, 0.35, 0.85, 0.15, 4.0, 1.0, (200, 400)),
]  # fmt: skip


# --- trials -----------------------------------------------------------------------------------------------------------


def simulate(s: Scenario, trials: int, seed: int) -> dict[str, np.ndarray]:
    """Published numbers of ``trials`` trials; NaN: a median that was not reached."""
    out: dict[str, np.ndarray] = {}
    times, events, ends, died, recurring = [], [], [], [], []
    for a, n in enumerate(s.sizes):
        p = s.draw(a, n * trials, seed + a)
        time, event = (v.reshape(trials, n) for v in first_events(p))
        number = np.bincount(p.patient, minlength=p.n).reshape(trials, n)
        end = p.end.reshape(trials, n)
        times.append(time)
        events.append(event)
        ends.append(end)
        died.append(p.died.reshape(trials, n))
        recurring.append(recurrent_events(p, n, trials))
        share = np.clip(event.mean(1), 0.5 / n, 1 - 0.5 / n)
        out[f"p{a}"] = np.log(share / (1 - share))
        out[f"m{a}"] = np.log(medians(time, event))
        out[f"c{a}"] = np.log(number.mean(1))
        out[f"s{a}"] = np.log((number / np.maximum(end, 1 / 365.25)).mean(1))
        out[f"OS m{a}"] = np.log(medians(end, died[a]))
    out["HR"] = cox_ratios(times, events)[0]
    out["AG"] = ratios(recurring, ends)[0]
    out["OS HR"] = cox_ratios(ends, died)[0]
    return {k: np.where(np.isfinite(v), v, np.nan) for k, v in out.items()}


def correlation(numbers: dict[str, np.ndarray], a: str, b: str) -> float:
    """Correlation of two numbers over the trials that have both."""
    both = np.isfinite(numbers[a]) & np.isfinite(numbers[b])
    return float(np.corrcoef(numbers[a][both], numbers[b][both])[0, 1])


def other_arm(pair: tuple[str, str]) -> tuple[tuple[str, str], int] | None:
    """The same pair of arm 1 and the sign of its correlation relative to arm 0, if there is one."""
    swapped = tuple(k.replace("0", "1") for k in pair)
    if swapped == pair or pair == ("p0", "p1"):
        return None
    return swapped, -1 if pair[1].endswith(("HR", "AG")) else 1


# --- expectations and their derivatives -------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="shared")
def _numbers(hazard, death, theta, weights, stay, q, t, share, shared):
    sides, repeats, out = [], [], {}
    for a in (0, 1):
        h, d = hazard[a], death[a]
        obs = observable(h, d, theta, t, shared)
        lam, y = mixed_hazard(obs, weights)
        r, living = recurrent(h, d, theta, t, shared)
        sides.append((lam.sum(0), y * stay))
        repeats.append((r[0].sum(0), living[0] * stay))
        p = crude.expected(obs, weights, stay, q)
        out[f"p{a}"] = jnp.log(p / (1 - p))
        out[f"m{a}"] = jnp.log(median.expected(lam.sum(0), t)[0])
        out[f"c{a}"] = jnp.log(rate.mean_count(h, d, theta, weights, stay, q, t, shared))
        out[f"s{a}"] = jnp.log(rate.mean_rate(h, d, theta, weights, stay, q, t, shared))
    out["HR"] = contrast.hazard_ratio(*sides[1], *sides[0], q, share)
    out["AG"] = contrast.hazard_ratio(*repeats[1], *repeats[0], q, share)
    return out


def expected(s: Scenario, log_h: np.ndarray) -> dict[str, float]:
    """What the formulas say if the arms' hazards are multiplied by exp(log_h); one member."""
    hazard = tuple(s.hazard[a] * np.exp(log_h[a]) for a in (0, 1))
    q = quadrature(s.t, s.horizon)
    out = _numbers(hazard, s.death, s.theta, s.weights, s.stay, q, s.t, s.share, s.shared)
    return {k: float(v) for k, v in out.items()}


def slopes(s: Scenario, names) -> np.ndarray:
    """Derivatives of the expectations in (ln h0, ln h1), [number, 2], by central differences."""
    step = 1e-3
    up = [expected(s, step * v) for v in np.eye(2)]
    down = [expected(s, -step * v) for v in np.eye(2)]
    return np.array([[(u[k] - d[k]) / (2 * step) for u, d in zip(up, down, strict=True)] for k in names])


SETS = {
    "p0 p1": ("p0", "p1"),
    "p0 p1 HR": ("p0", "p1", "HR"),
    "p0 p1 m0 m1": ("p0", "p1", "m0", "m1"),
    "p0 p1 m0 m1 HR": ("p0", "p1", "m0", "m1", "HR"),
    "p0 p1 m0 m1 HR AG": ("p0", "p1", "m0", "m1", "HR", "AG"),
}


def double_counting(s: Scenario, numbers: dict[str, np.ndarray]) -> dict[str, float]:
    """Nominal over actual sd of ln(h1/h0) if the numbers of a set are taken as independent (flat prior)."""
    out = {}
    for name, keys in SETS.items():
        y = np.stack([numbers[k] for k in keys])
        covariance = np.cov(y[:, np.isfinite(y).all(0)])
        j = slopes(s, keys)
        weight = j.T / np.diag(covariance)
        nominal = np.linalg.inv(weight @ j)
        gain = nominal @ weight
        effect = np.array([-1.0, 1.0])
        out[name] = float(np.sqrt((effect @ nominal @ effect) / (effect @ gain @ covariance @ gain.T @ effect)))
    return out


# --- the toy posterior ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Posterior:
    """A parameter over the replicates: nominal sd, actual sd of the estimate, coverage of the 90 % interval."""

    nominal: float
    actual: float
    coverage: float


def posterior(studies: list[Scenario], numbers: list[dict[str, np.ndarray]], rho: float) -> dict[str, Posterior]:
    """Posterior of (ln h0 of each study, common effect) from each study's p0 and HR, linear at the truth, flat prior.

    Variances are those that the likelihoods assume: binomial and `contrast.standard_error`; ``rho`` their correlation.
    """
    count = len(studies)
    jacobian, covariance = np.zeros((2 * count, count + 1)), np.zeros((2 * count, 2 * count))
    data = np.zeros((2 * count, numbers[0]["HR"].size))
    for i, (s, seen) in enumerate(zip(studies, numbers, strict=True)):
        truth = expected(s, np.zeros(2))
        own = slopes(s, ("p0", "HR"))
        rows = slice(2 * i, 2 * i + 2)
        jacobian[rows, i] = own.sum(axis=1)  # ln h1 = ln h0 + effect
        jacobian[rows, count] = own[:, 1]
        p = 1 / (1 + np.exp(-truth["p0"]))
        q = quadrature(s.t, s.horizon)
        curves = []
        for a in (1, 0):
            lam, y = mixed_hazard(observable(s.hazard[a], s.death[a], s.theta, s.t, s.shared), s.weights)
            curves += [lam.sum(0), y * s.stay]
        sd = [
            1 / np.sqrt(s.sizes[0] * p * (1 - p)),
            float(contrast.standard_error(truth["HR"], sum(s.sizes), *curves, q, s.share)),
        ]
        covariance[rows, rows] = np.outer(sd, sd) * np.array([[1, rho], [rho, 1]])
        data[rows] = [seen["p0"] - truth["p0"], seen["HR"] - truth["HR"]]
    weight = jacobian.T @ np.linalg.inv(covariance)
    spread = np.linalg.inv(weight @ jacobian)
    error = spread @ weight @ data
    wanted = {"ln h0": np.eye(count + 1)[0], "ln h1": np.eye(count + 1)[0] + np.eye(count + 1)[count]}
    wanted["effect"] = np.eye(count + 1)[count]
    limit = stats.norm.isf(0.05)
    out = {}
    for name, v in wanted.items():
        sd, off = float(np.sqrt(v @ spread @ v)), v @ error
        out[name] = Posterior(sd, float(off.std()), float(np.mean(np.abs(off) < limit * sd)))
    return out


# --- all of it --------------------------------------------------------------------------------------------------------


def measure(trials: int = 2000, seed: int = 1) -> dict:
    """Simulate every design and collect the tables."""
    numbers = [simulate(s, trials, seed + 10 * i) for i, s in enumerate(DESIGNS)]
    table = []
    for pair, working in WORKING.items():
        row = {"pair": pair, "working": working, "coded": getattr(contrast, CODED[pair]) if pair in CODED else None}
        row["simulated"] = [correlation(v, *pair) for v in numbers]
        other = other_arm(pair)
        row["arm 1, sign turned"] = [other[1] * correlation(v, *other[0]) for v in numbers] if other else None
        table.append(row)
    share = {}
    for s, v in zip(DESIGNS, numbers, strict=True):
        v0, v1 = (1 / (n * np.mean(1 / (1 + np.exp(-v[f"p{a}"])))) for a, n in enumerate(s.sizes))
        share[s.name] = [float(np.sqrt(2 * v0 / (v0 + v1))), float(np.sqrt(2 * v1 / (v0 + v1)))]
    second = simulate(DESIGNS[0], trials, seed + 100)
    toy = {}
    for name, studies, seen in (
        ("two studies of the first design", [DESIGNS[0], DESIGNS[0]], [numbers[0], second]),
        ("the first and the second design", [DESIGNS[0], DESIGNS[1]], numbers[:2]),
        ("one study of the first design", [DESIGNS[0]], numbers[:1]),
        ("one study of the second design", [DESIGNS[1]], numbers[1:2]),
        ("one study, 2:1", [DESIGNS[2]], numbers[2:]),
    ):
        toy[name] = {rho: posterior(studies, seen, rho) for rho in (0.0, contrast.RHO_CRUDE)}
    return {
        "designs": [s.name for s in DESIGNS],
        "not reached": [[float(np.isnan(v[k]).mean()) for k in ("m0", "m1", "OS m0", "OS m1")] for v in numbers],
        "correlations": table,
        "factor of the variances": share,
        "nominal over actual": [double_counting(s, v) for s, v in zip(DESIGNS, numbers, strict=True)],
        "toy": toy,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    begin = time.perf_counter()
    found = measure(options.trials)
    seconds = time.perf_counter() - begin
    if options.json:
        found["toy"] = {
            k: {str(rho): {p: vars(x) for p, x in v.items()} for rho, v in t.items()} for k, t in found["toy"].items()
        }
        print(json.dumps(found | {"trials": options.trials, "seconds": seconds}, indent=1))
        return
    print(f"{options.trials} trials a design, {seconds:.0f} s, {platform.machine()}, numpy {np.__version__}")
    for i, name in enumerate(found["designs"]):
        print(f"  {i + 1}: {name}; medians not reached (SRE 0, 1, OS 0, 1) {np.round(found['not reached'][i], 3)}")
    print("\nCorrelations: working, coded | designs 1 2 3 of arm 0 | of arm 1, sign turned where the theory turns it")
    for row in found["correlations"]:
        coded = "     " if row["coded"] is None else f"{row['coded']:+.2f}"
        here = " ".join(f"{v:+.2f}" for v in row["simulated"])
        there = "" if row["arm 1, sign turned"] is None else " ".join(f"{v:+.2f}" for v in row["arm 1, sign turned"])
        print(f"  {row['pair'][0]:>6} {row['pair'][1]:6} {row['working']:+.2f} {coded} | {here} | {there}")
    print("\nsqrt(2 v_a/(v_0 + v_1)), by which a correlation of arm a with a ratio grows (arms 0, 1):")
    for name, pair in found["factor of the variances"].items():
        print(f"  {name}: {pair[0]:.2f} {pair[1]:.2f}")
    print("\nNominal over actual sd of ln(h1/h0), numbers taken as independent:")
    for name in SETS:
        print(f"  {name:20}", " ".join(f"{v[name]:.2f}" for v in found["nominal over actual"]))
    print("\nToy posterior from p0 and HR: nominal sd, actual sd (nominal/actual), coverage of 90 %")
    for name, table in found["toy"].items():
        print(f"  {name}")
        for rho, row in table.items():
            cells = "   ".join(
                f"{k} {v.nominal:.3f} {v.actual:.3f} ({v.nominal / v.actual:.2f}) {v.coverage:.3f}"
                for k, v in row.items()
            )
            print(f"    rho {rho:+.2f}: {cells}")


if __name__ == "__main__":
    main()
