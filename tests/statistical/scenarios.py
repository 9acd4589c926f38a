"""Twenty trials to hold the observation models against, and how their results are judged.

Arm 0 is the control, arm 1 is treated. Every scenario has 20,000 patients an arm (`Scenario.patients`, drawn once a
session with a fixed seed), cut in replicates of the size of its trial: patients are independent and identically
distributed, so contiguous chunks are trials.

Failure rates: seeds are fixed, so a test that passes passes always. With fresh seeds and a right formula,
`judge_means` of k comparisons fails with probability 1 - (1 - 0.0027)^k + 0.001 (0.054 for 20, 0.10 for 40) and
`judge_variance` with the probability that `Verdict.rate` carries (a few in a thousand for 2,000 replicates).
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from osteobayes.observe import patients
from osteobayes.observe.patients import Patients

PATIENTS = 20_000
"""Patients an arm of each scenario."""
SALT = 1
"""Part of every seed. With salt 0 one of the 40 crude totals had z = -3.04 (one such in ten salts is expected); with
1,000,000 patients the same arm had +1.5, and the largest of 40 was 2.6."""
LIMIT, LEAST_P, TOLERANCE = 3.0, 1e-3, 0.10


@dataclass(frozen=True, eq=False)
class Scenario:
    """One trial of two arms; times in years, hazards in 1/year, everything conditional on U = 1.

    Attributes
    ----------
    t : array [T]
        Grid from 0 to the horizon.
    hazard : (control, treated), arrays [M, K, T]
    death : (control, treated), arrays [M, T]
    weights : array [M]
        Member weights, the same in both arms.
    theta, shared
        Variance of U; whether it multiplies death.
    dropout, horizon, accrual
        Dropout hazard; end of follow-up after the first entry; duration of uniform entry (0: fixed follow-up).
    sizes : (control, treated)
        Patients of one trial.
    """

    name: str
    t: np.ndarray
    hazard: tuple[np.ndarray, np.ndarray]
    death: tuple[np.ndarray, np.ndarray]
    weights: np.ndarray
    theta: float
    shared: bool
    dropout: float
    horizon: float
    accrual: float
    sizes: tuple[int, int]
    effect: str

    @property
    def stay(self) -> np.ndarray:
        """G(t) [T] = P(no dropout yet and still under administrative follow-up)."""
        left = np.clip((self.horizon - self.t) / self.accrual, 0.0, 1.0) if self.accrual > 0 else 1.0
        return np.exp(-self.dropout * self.t) * left

    @property
    def share(self) -> float:
        """Share of the patients allocated to the treated arm."""
        return self.sizes[1] / sum(self.sizes)

    def replicates(self, arm: int | None = None) -> int:
        """Trials that the patients of an arm (or of both) make up."""
        return PATIENTS // (max(self.sizes) if arm is None else self.sizes[arm])

    def draw(self, arm: int, n: int, seed: int) -> Patients:
        """Draw ``n`` patients of an arm."""
        return patients.draw(
            np.random.default_rng(seed),
            n,
            self.hazard[arm],
            self.death[arm],
            self.t,
            self.weights,
            self.theta,
            self.dropout,
            self.horizon,
            self.accrual,
            self.shared,
        )

    @functools.cache
    def patients(self, arm: int) -> Patients:
        """The 20,000 patients of an arm, always the same."""
        return self.draw(arm, PATIENTS, zlib.crc32(f"{self.name}/{arm}/{SALT}".encode()))

    def trials(self, values: np.ndarray, arm: int) -> np.ndarray:
        """Values of an arm's patients [..., 20000], by replicate [..., replicates, patients of the arm]."""
        n, count = self.sizes[arm], self.replicates(arm)
        return values[..., : n * count].reshape(*values.shape[:-1], count, n)


# --- the scenarios ----------------------------------------------------------------------------------------------------


def late(t: np.ndarray, at: float = 0.5, width: float = 0.06) -> np.ndarray:
    """From 0 to 1 around ``at``."""
    return 1.0 / (1.0 + np.exp(-(t - at) / width))


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda t: np.ones_like(t),
    "front": lambda t: 0.7 + 1.4 * np.exp(-t / 0.3),
    "rising": lambda t: 0.5 + 0.6 * t,
    "delayed": lambda t: 0.15 + 1.1 * late(t, 0.4, 0.08),
    "falling": lambda t: 1.6 - 1.3 * late(t, 0.8, 0.15),
}
EFFECTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "proportional": lambda t, r: np.full_like(t, r),
    "delayed": lambda t, r: 1.0 - (1.0 - r) * late(t),
    "waning": lambda t, r: 1.0 - (1.0 - r) * np.exp(-t / 0.6),
    "crossing": lambda t, r: r + 1.4 * late(t),
}
POWERS = (1.0, 0.5, 0.8, 0.2, 1.2)
"""Exponents of the effect on the components (log scale), scaled so that they differ."""


def build(
    name: str,
    base: Sequence[float],
    shares: Sequence[float],
    shapes: Sequence[str],
    effect: tuple[str, float],
    theta: float,
    death: Sequence[float],
    *,
    weights: Sequence[float] = (1.0,),
    shared: bool = False,
    dropout: float = 0.2,
    horizon: float = 2.0,
    accrual: float = 0.0,
    sizes: tuple[int, int] = (200, 200),
    death_shape: str = "constant",
    death_ratio: float = 1.0,
    same_effect: bool = False,
) -> Scenario:
    """Make a scenario: members have ``base`` x ``shares`` hazards of the components' shapes and their own death."""
    t = np.linspace(0.0, horizon, 601)
    own = np.stack([w * SHAPES[shape](t) for w, shape in zip(shares, shapes, strict=True)])
    control = np.asarray(base)[:, None, None] * own
    kind, size = effect
    power = np.ones(len(shares)) if same_effect else np.asarray(POWERS[: len(shares)])
    treated = control * EFFECTS[kind](t, size)[None, None] ** power[None, :, None]
    dies = np.asarray(death)[:, None] * SHAPES[death_shape](t)
    return Scenario(
        name, t, (control, treated), (dies, death_ratio * dies), np.asarray(weights), theta, shared, dropout, horizon,
        accrual, sizes, kind,
    )  # fmt: skip


C, F, R, D, W = "constant", "front", "rising", "delayed", "falling"
SCENARIOS: list[Scenario] = [
    build("plain", [0.8], [0.6, 0.4], [C, C], ("proportional", 0.7), 0.0, [0.4], same_effect=True),
    build("frail", [0.9], [0.5, 0.3, 0.2], [C, C, C], ("proportional", 0.65), 1.0, [0.3], accrual=1.0, horizon=2.5),
    build("frail, shared", [1.0], [0.5, 0.5], [C, C], ("proportional", 0.6), 1.0, [0.6], shared=True, dropout=0.1),
    build("front-loaded", [0.9], [0.5, 0.3, 0.2], [F, F, C], ("proportional", 0.7), 0.6, [0.4], dropout=0.4),
    build("rising", [0.6], [0.7, 0.3], [R, C], ("delayed", 0.5), 0.3, [0.25], horizon=3.0, accrual=1.5),
    build("delayed onset", [1.2], [0.6, 0.4], [D, D], ("delayed", 0.55), 0.6, [0.5], shared=True, sizes=(250, 250)),
    build("crossing", [0.9], [0.6, 0.4], [C, C], ("crossing", 0.4), 0.3, [0.4], dropout=0.15, sizes=(200, 400)),
    build("crossing, frail", [1.1], [0.5, 0.3, 0.2], [F, C, R], ("crossing", 0.35), 1.5, [0.5], shared=True),
    build("waning", [0.8], [0.4, 0.3, 0.2, 0.1], [C, F, R, C], ("waning", 0.4), 0.6, [0.4], accrual=0.8),
    build("waning, heavy loss", [1.0], [0.6, 0.4], [C, W], ("waning", 0.45), 0.3, [0.6], dropout=0.8, horizon=1.5),
    build("short lives", [1.2], [0.5, 0.5], [C, F], ("proportional", 0.7), 0.6, [1.2], dropout=0.3, horizon=1.5),
    build("short lives, shared", [1.0], [0.6, 0.4], [C, D], ("delayed", 0.6), 1.0, [1.1], shared=True, dropout=0.2),
    build("few events", [0.35], [0.6, 0.4], [C, R], ("proportional", 0.7), 0.6, [0.3], dropout=0.5, horizon=1.5),
    build(
        "five components", [0.9], [0.35, 0.25, 0.2, 0.12, 0.08], [C, F, R, D, W], ("proportional", 0.6), 0.6, [0.35],
        sizes=(400, 400), accrual=1.0, horizon=3.0,
    ),
    build(
        "two tumours", [0.5, 1.3], [0.6, 0.4], [C, C], ("proportional", 0.65), 0.6, [0.2, 0.8], weights=[0.6, 0.4],
        accrual=1.0,
    ),
    build(
        "two tumours, shared", [0.6, 1.5], [0.5, 0.3, 0.2], [C, F, R], ("delayed", 0.5), 1.0, [0.3, 0.9],
        weights=[0.5, 0.5], shared=True, sizes=(250, 250),
    ),
    build(
        "three tumours", [0.3, 0.8, 2.0], [0.7, 0.3], [C, R], ("waning", 0.5), 0.3, [0.3, 0.6, 1.2],
        weights=[0.5, 0.3, 0.2], dropout=0.25, sizes=(400, 200),
    ),
    build(
        "three tumours, crossing", [0.5, 0.9, 1.4], [0.4, 0.3, 0.2, 0.1], [C, D, F, C], ("crossing", 0.5), 1.5,
        [0.2, 0.5, 1.0], weights=[0.4, 0.35, 0.25], shared=True, horizon=2.5, accrual=1.0, sizes=(250, 250),
    ),
    build(
        "longer lives", [1.2], [0.5, 0.5], [C, C], ("proportional", 0.65), 1.0, [0.6], shared=True, dropout=0.1,
        death_ratio=0.6, horizon=3.0, accrual=1.5, same_effect=True,
    ),
    build(
        "no frailty, rising deaths", [0.7], [0.5, 0.3, 0.2], [W, C, R], ("waning", 0.5), 0.0, [0.3], death_shape="rising",
        death_ratio=0.8, horizon=1.0, dropout=0.0, sizes=(400, 400),
    ),
]  # fmt: skip


# --- judgement --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether a statistic passed; true or false in an ``assert``."""

    passed: bool
    text: str
    rate: float
    """Probability that a right formula fails with fresh seeds."""

    def __bool__(self) -> bool:
        return self.passed


def judge_means(z) -> Verdict:
    """Judge z-scores of scenarios: each within 3, and their sum of squares not improbable (chi-square, p > 0.001).

    Failure rate of a right formula with fresh seeds: 1 - (1 - 0.0027)^k + 0.001 for k independent scores.
    """
    z = np.asarray(z, float).ravel()
    p = float(stats.chi2.sf(np.sum(z**2), z.size))
    worst = int(np.argmax(np.abs(z)))
    rate = 1.0 - (1.0 - 2.0 * stats.norm.sf(LIMIT)) ** z.size + LEAST_P
    text = f"{z.size} z-scores: largest {z[worst]:+.2f} (number {worst}), mean {z.mean():+.2f}, chi-square p {p:.2g}"
    return Verdict(bool(np.abs(z[worst]) <= LIMIT and p > LEAST_P and np.isfinite(z).all()), text, float(rate))


def judge_variance(ratios, replicates) -> Verdict:
    """Judge simulated/assumed variances, pooled over scenarios by degrees of freedom: within 10 % of 1.

    Failure rate of a right formula with fresh seeds: that of a chi-square of sum(replicates - 1) degrees of freedom
    (normal statistics), 0.0016 for 2,000.
    """
    ratios, df = np.asarray(ratios, float).ravel(), np.asarray(replicates).ravel() - 1
    pooled, total = float(np.sum(df * ratios) / np.sum(df)), int(np.sum(df))
    law = stats.chi2(total)
    rate = law.cdf(total * (1 - TOLERANCE)) + law.sf(total * (1 + TOLERANCE))
    text = f"variance simulated/assumed {pooled:.3f} (+- {np.sqrt(2 / total):.3f}); each {np.round(ratios, 2)}"
    return Verdict(abs(pooled - 1.0) <= TOLERANCE, text, float(rate))


def mutated(judgement: Callable[[np.ndarray], Verdict], expected, factor: float = 1.1) -> Verdict:
    """The same judgement of ``factor`` times what is expected, which must fail: the test has power.

    Returns the failed verdict; raises AssertionError if the mutation passed.
    """
    verdict = judgement(factor * np.asarray(expected))
    assert not verdict, f"a formula that is off by {factor:g} passes: {verdict.text}"
    return verdict
