"""Small trials' medians and incidence against simulated patients; the other statistics: test_scenarios, test_contrasts.

Seeds are fixed. With fresh seeds a comparison at Z = 4.5 standard errors fails by chance with probability 7e-6. The
approximation of medians has wider, written tolerances.
"""

import jax
import numpy as np
import pytest
from scenarios import Scenario
from scipy import stats
from simulated import first_events, medians

from osteobayes.observe import incidence, interpolation, median, observable, quadrature
from osteobayes.survival import kaplan_meier

jax.config.update("jax_enable_x64", True)

Z = 4.5
T = np.linspace(0, 3, 1201)


DESIGNS = {  # n, hazard, death, theta
    "large": (200, 0.9, 0.4, 0.5),
    "often not reached": (200, 0.45, 0.4, 0.3),
    "sixty": (60, 0.9, 0.4, 0.5),
    "small": (27, 1.0, 0.4, 0.5),
    "half not reached": (214, 0.28, 0.4, 0.3),
    "small, not reached": (27, 0.6, 0.4, 0.5),
    "deaths": (300, 0.5, 0.8, 0.3),
}


RESIDUALS = jax.jit(jax.vmap(median.residual, in_axes=(None, None, None, None, 0, 0, 0)))


@pytest.mark.parametrize("name", DESIGNS)
def test_kaplan_meier_median(name):
    """An approximation, with its tolerances.

    P(not reached) within 0.05 (4,000 trials: Monte Carlo error 0.008; worst here 0.040); where nearly all are reached,
    sd(z) 0.85 to 1.1, mean within 0.1, and 0.03 to 0.07 of the residuals beyond each 90 % limit (0.02 to 0.075 for
    n = 27).
    """
    n, hazard, death, theta = DESIGNS[name]
    count = 4000
    h, d = np.full((1, 1, T.size), hazard), np.full((1, T.size), death)
    s = Scenario(name, T, (h, h), (d, d), np.ones(1), theta, False, 0.25, 3.0, 1.5, (n, n), "")
    x = medians(*(v.reshape(count, n) for v in first_events(s.draw(0, count * n, 13))))
    obs = observable(h, d, theta, T)
    lam, y = obs.hazard[0, 0], obs.at_risk[0] * s.stay
    missed = np.exp(float(median.log_lik_not_reached(lam, y, n, T, s.horizon, interpolation(T, s.horizon))))
    assert abs(np.isinf(x).mean() - missed) < 0.05
    seen = x[np.isfinite(x)][:2000]
    full = np.resize(seen, 2000)  # one shape, one compilation
    q, p = (np.stack([f(T, v) for v in full]) for f in (quadrature, interpolation))
    z = np.asarray(RESIDUALS(lam, y, float(n), T, full, q, p))[: seen.size]
    if missed < 0.05:
        least, most = (0.02, 0.075) if n < 50 else (0.03, 0.07)
        assert least < (z < -1.645).mean() < most
        assert least < (z > 1.645).mean() + np.isinf(x).mean() < most + 0.02
        assert 0.85 < z.std() < 1.1
        assert abs(z.mean()) < 0.1
    # residuals of the reached medians fill the normal law below its truncation
    chance = stats.norm.cdf(z) / (1 - np.isinf(x).mean())
    assert abs(np.minimum(chance, 1).mean() - 0.5) < 0.06


def test_incidence():
    n, a, shape, d = 200_000, 0.15, 0.6, 0.1
    rng = np.random.default_rng(20)
    onset = (rng.exponential(size=n) / a) ** (1 / shape)
    dead, lost = rng.exponential(1 / d, n), rng.uniform(0, 10, n)
    grid = np.linspace(0, 10, 201)
    expected = incidence.metachronous_crude(a, shape, d, 1 - grid / 10, grid)
    end = np.minimum(dead, lost)
    assert abs((onset < end).mean() - expected) < Z * np.sqrt(expected * (1 - expected) / n)
    marks = np.array([1.0, 12, 24, 60, 108]) / 12
    seen = 1 - kaplan_meier(np.minimum(onset, end), onset < end)(marks)
    curve = incidence.km_curve(marks, a, shape)
    share = np.r_[1.0, np.exp(-d * marks[:-1]) * (1 - marks[:-1] / 10)]
    d_seen, d_model = incidence.km_curve_intervals(seen), incidence.km_curve_intervals(curve)
    sd = np.sqrt(1 / (n * np.r_[1.0, 1 - curve[:-1]] * share * 0.5 * d_model))  # half: at risk falls inside
    assert np.max(np.abs(np.log(d_seen / d_model)) / sd) < Z
