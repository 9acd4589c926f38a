"""Coordinates in which the posterior is nearly a standard normal: a Gaussian approximation given the standard deviations.

Study effects and their standard deviations form funnels: an effect's posterior width depends on the standard deviation, by
how much depends on its data. Neither centring nor non-centring removes that for effects with unequal data (Papaspiliopoulos
et al. 2007, Stat Sci 22:59). Here the effects are centred and scaled by what a Gaussian approximation says their posterior is
*given* the standard deviations, so every effect gets the degree of centring that its data ask for, jointly with everything
that it is correlated with. The map is exact (its Jacobian is accounted for): it changes the cost, not the law.

The approximation is first that of Laplace at a mode; after the first phase of warm-up it is the mean over draws of the
density's curvature (natural parameters averaged, as in Opper and Archambeau 2009, Neural Comput 21:786). Log rates that no
number of their own informs are bent on top of it (:attr:`Geometry.bent`): their posterior is Gaussian on one side only.

Four maps ``z -> x`` go before it.

* Half-normal sites are sampled on the scale where their prior is standard normal (on the log scale a half-normal has a long tail to
  the left).
* Rates of kill and elasticities act on the data by their size: on the log scale the likelihood is the steeper the larger they are,
  and flat where they are near zero. Their ratio to the prior median is the softplus of the coordinate, which is in proportion to
  their size far above the median and to its logarithm far below.
* The scale of the onset law is exchanged for the cumulative hazard at the end of a typical follow-up: that is what registries tell,
  and the law's shape tells them apart on a curved ridge.
* Two cancers that stand only in mixed arms (lung and other solid tumours in the shipped evidence) are informed through the sum of
  their hazards, a curved ridge for each component of skeletal events: their baselines and component ratios are exchanged for log
  sums and log ratios of their component hazards (volume is preserved).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc, log_ndtr, ndtr, ndtri
from jaxtyping import Array, Float

from osteobayes.errors import OsteobayesError
from osteobayes.evidence.pack import ONSET_YEARS
from osteobayes.model import Model
from osteobayes.priors import location_scale

COMPONENT_SITES = ("sre_baseline", "radiation_logit", "surgery_logit", "cord_compression_logit")
"""Sites by cancer that make the component hazards: their log total, and log ratios to the first component."""
BY_SIZE = ("_kill", "_elasticity")
"""How the names of rates and elasticities end that act on the data by their size."""
PURE = 0.9
"""An arm with at least this share of one cancer informs that cancer alone."""
FLOOR = 0.05
"""Smallest curvature of the log density without the effects' own priors; flat or saddle directions are raised to it."""
STIFFEST = 1e10
"""Largest ratio of curvatures; smaller ones are raised (at a kink a Hessian by differences may be huge, and its inverse then loses its factor)."""

KINK = -1.0
"""Where the coordinate of a log rate bends (conditional standard deviations from its conditional mean)."""
_LOW = -4.0
"""Normal score below which a half-normal quantile is proportional to the probability (relative error 3e-10)."""
_FAINT = -30.0
"""Log of a number of which softplus is the exponential (relative error 5e-14)."""

Arrays = dict[str, Array]


@jax.custom_jvp
def log_half_normal(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of the half-normal variable (scale 1) whose probability is that of the normal score ``v``."""
    low = v < _LOW
    inside = jnp.log(-ndtri(0.5 * ndtr(-jnp.where(low, 0.0, v))))
    return jnp.where(low, log_ndtr(v) + 0.5 * np.log(0.5 * np.pi), inside)


def log_half_normal_slope(v: Float[Array, "..."], log_x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of the derivative of :func:`log_half_normal` where its value is ``log_x``: ratio of the densities, over the variable."""
    return 0.5 * (jnp.exp(2.0 * log_x) - v**2) - np.log(2.0) - log_x


@log_half_normal.defjvp
def _log_half_normal_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    log_x = log_half_normal(*primals)
    return log_x, jnp.exp(log_half_normal_slope(*primals, log_x)) * tangents[0]


def half_normal_score(log_x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse of :func:`log_half_normal`."""
    x = jnp.exp(log_x) / np.sqrt(2.0)
    return jnp.where(x < 0.7, ndtri(erf(jnp.minimum(x, 0.7))), -ndtri(erfc(jnp.maximum(x, 0.7))))


def bend(u: Float[Array, "..."], ratio: Float[Array, "..."]) -> tuple[Array, Array]:
    """A coordinate with slope 1 to the right of :data:`KINK` and ``ratio`` far to the left of it, 0 at 0; and its slope."""
    root, origin = jnp.sqrt(1.0 + (u - KINK) ** 2), np.sqrt(1.0 + KINK**2)
    more = 0.5 * (ratio - 1.0)
    return u + more * (u - root + origin), 1.0 + more * (1.0 - (u - KINK) / root)


def unbend(x: Float[Array, "..."], ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse of :func:`bend` (the root of a quadratic equation)."""
    a, b = 0.5 * (ratio + 1.0), 0.5 * (ratio - 1.0)
    x = x - a * KINK - b * np.sqrt(1.0 + KINK**2)
    return KINK + (a * x + b * jnp.sqrt(x**2 + ratio)) / ratio


def log_softplus(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of ``log(1 + exp(y))``: ``y`` far to the left, ``log(y)`` far to the right."""
    faint = y < _FAINT
    return jnp.where(faint, y, jnp.log(jax.nn.softplus(jnp.where(faint, 0.0, y))))


def log_softplus_slope(y: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of the derivative of :func:`log_softplus` where its value is ``value``."""
    return jax.nn.log_sigmoid(y) - value


def softplus_score(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inverse of :func:`log_softplus`."""
    faint = value < _FAINT
    size = jnp.exp(jnp.where(faint, 0.0, value))
    return jnp.where(faint, value, size + jnp.log(-jnp.expm1(-size)))


class Point(NamedTuple):
    """A point of the sampler's space ``x``, gradient and Hessian of the negative log density there."""

    x: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """The map of one model between its unconstrained vector ``z`` and the sampler's ``w``; arrays travel as data."""

    model: Model

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        start, out = 0, {}
        for name in sorted(self.model.sampled):  # the order of jax.flatten_util.ravel_pytree
            size = int(np.prod(self.model.sampled[name].shape))
            out[name] = np.arange(start, start + size)
            start += size
        return out

    @cached_property
    def size(self) -> int:
        """Length of the unconstrained vector."""
        return sum(len(i) for i in self._index.values())

    @cached_property
    def _effects(self) -> dict[str, list[tuple[np.ndarray, np.ndarray | None]]]:
        """Centred effects by the standard deviation that scales them: (their positions, position of their mean or None)."""
        out: dict[str, list] = {}
        for name, site in self.model.sampled.items():
            p = self.model.priors[site.parameter]
            if p.between_sd not in self.model.sampled or not p.centered or name.endswith("_common"):
                continue
            mean = self._index[f"{site.parameter}_common"] if p.pooling == "cancer" else None
            out.setdefault(p.between_sd, []).append((self._index[name], mean))
        return out

    @cached_property
    def scales(self) -> np.ndarray:
        """Positions of the log standard deviations that scale effects."""
        return np.array([self._index[n][0] for n in sorted(self._effects)], dtype=int)

    @cached_property
    def effects(self) -> np.ndarray:
        """Positions of the effects; then those of :attr:`bent` (not all of them effects); then the means of pooled ones."""
        pairs = [pair for group in self._effects.values() for pair in group]
        every = np.concatenate([np.zeros(0, dtype=int), *(members for members, _ in pairs)])
        means = [mean for _, mean in pairs if mean is not None]
        return np.concatenate([np.setdiff1d(every, self.bent), self.bent, *means])

    @property
    def _bent_slice(self) -> slice:
        """Places of the bent ones among the effects."""
        first = int(np.flatnonzero(self.effects == self.bent[0])[0]) if len(self.bent) else 0
        return slice(first, first + len(self.bent))

    @cached_property
    def bent(self) -> np.ndarray:
        """Positions of log rates, and of logits of small shares, that the data may fail to tell from none at all.

        A rate acts on the data by its size, so the data say nothing of its logarithm once it is near zero: the posterior is a
        plateau to the left, as wide as the prior, with a wall to the right. So it is with deviations of log rates that cancers
        share, of a cancer whose progression is not fitted (fitted progression tells its growth from both sides); with the death
        baseline of a cancer whose survival is not fitted (a competing risk of its skeletal events); and with the share at
        diagnosis of a cancer of which only the curve after it is.
        """
        cancers = np.array(self.model.packed.coords.get("cancer", ()))
        told = np.isin(cancers, sorted(self._fitted_cancers("PFS")))
        deviations = [
            members[~told] if members.shape == told.shape else members
            for group in self._effects.values()
            for members, mean in group
            if mean is not None and self._parameter_at(members[0]).family == "lognormal"
        ]
        unseen = [
            i for i in (*self._deaths_unseen, *self._diagnoses_unseen) if self._parameter_at(i).family == "normal"
        ]
        return np.unique(np.concatenate([*deviations, unseen]).astype(int))

    def _cancers_of(self, kind: str, arms: Iterable[int]) -> set[str]:
        """Cancers of the cells of some arms of a kind of event."""
        packed = self.model.packed
        table = packed.arms[kind]
        return {packed.cells[c].cancer for a in arms for c, w in zip(table.cell[a], table.weight[a], strict=True) if w}

    def _fitted_cancers(self, kind: str) -> set[str]:
        """Cancers with a fitted number of an event of this kind."""
        data = self.model.packed.data
        families = ("crude", "median", "landmark", "interval", "hazard_ratio")
        rows = [data[f][k] for f in families for k in (kind, f"{kind} aj") if k in data.get(f, {})]
        arms = [int(a) for r in rows for n in ("arm", "treated", "reference") for a in getattr(r, n, ())]
        return self._cancers_of(kind, arms) if arms else set()

    @cached_property
    def _deaths_unseen(self) -> np.ndarray:
        """Positions of the death baselines of cancers with fitted skeletal events and no fitted survival."""
        packed = self.model.packed
        if "SRE" not in packed.arms or "death_baseline" not in self._index:
            return np.zeros(0, dtype=int)
        unseen = self._cancers_of("SRE", range(len(packed.arms["SRE"].cell))) - self._fitted_cancers("OS")
        return self._index["death_baseline"][[c in unseen for c in packed.coords["cancer"]]]

    @cached_property
    def _diagnoses_unseen(self) -> np.ndarray:
        """Positions of the shares at diagnosis of cancers of which a curve is fitted and no such share."""
        data = self.model.packed.data
        if "incidence_curve" not in data or "onset_at_diagnosis" not in self._index:
            return np.zeros(0, dtype=int)
        seen = data["incidence"].onset[data["incidence"].metachronous == 0] if "incidence" in data else []
        return self._index["onset_at_diagnosis"][np.setdiff1d(data["incidence_curve"].onset, seen)]

    def _parameter_at(self, position: int):
        name = next(n for n, i in self._index.items() if position in i)
        return self.model.priors[self.model.sampled[name].parameter]

    def _log_width(self, log_sd: Float[Array, " scale"]) -> Float[Array, " bent"]:
        """Log of the prior standard deviation of each bent coordinate, given the logs of the standard deviations."""
        groups = [self._effects[n] for n in sorted(self._effects)]
        widths = []
        for p in self.bent:
            scale = [k for k, g in enumerate(groups) if any(p in m for m, _ in g)]
            prior = self._parameter_at(p)
            widths.append(log_sd[scale[0]] if scale else jnp.log(prior.sd or prior.log_sd or 1.0))
        return jnp.stack(widths) if widths else jnp.zeros(0)

    @cached_property
    def rest(self) -> np.ndarray:
        """All other positions."""
        return np.setdiff1d(np.arange(self.size), np.concatenate([self.scales, self.effects]))

    @cached_property
    def half_normals(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of half-normal sites and the logs of their prior scales."""
        at, scale = [], []
        for name, site in self.model.sampled.items():
            if site.family == "halfnormal":
                at.append(self._index[name])
                scale.append(np.full(len(self._index[name]), float(self.model.priors[site.parameter].sd or 0.0)))
        return (np.concatenate(at), np.log(np.concatenate(scale))) if at else (np.zeros(0, dtype=int), np.zeros(0))

    @cached_property
    def sized(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of rates and elasticities that act by their size (:data:`BY_SIZE`), and the logs of their prior medians."""
        at, log_median = [np.zeros(0, dtype=int)], [np.zeros(0)]
        for name, site in self.model.sampled.items():
            prior = self.model.priors[site.parameter]
            if name.endswith(BY_SIZE) and prior.family == "lognormal" and prior.between_sd is None:
                at.append(self._index[name])
                log_median.append(np.broadcast_to(location_scale(prior)[0], site.shape).ravel())
        return np.concatenate(at), np.concatenate(log_median)

    @cached_property
    def _log_scales(self) -> np.ndarray:
        """Logs of the prior scales of the standard deviations that scale effects."""
        at, log_scale = self.half_normals
        if not set(self.scales) <= set(at):
            raise OsteobayesError(
                "a between-study or between-cancer SD has another prior than half-normal; write `family: halfnormal`"
            )
        return np.array([log_scale[list(at).index(i)] for i in self.scales])

    @cached_property
    def design(self) -> np.ndarray:
        """``A[k]``: prior precision of the effects is ``sum_k A[k] / sd_k^2`` [scale, effect, effect]."""
        A = np.zeros((len(self.scales), len(self.effects), len(self.effects)))
        for k, name in enumerate(sorted(self._effects)):
            for members, mean in self._effects[name]:
                for i in members:
                    v = (self.effects == i).astype(float)
                    if mean is not None:
                        v -= self.effects == mean[0]
                    A[k] += np.outer(v, v)
        return A

    @cached_property
    def mixed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The two cancers that share mixed arms and have no arm of their own: positions [cancer, site] and log weights."""
        packed, sampled = self.model.packed, self.model.sampled
        if "SRE" not in packed.arms or not set(COMPONENT_SITES) <= set(sampled):
            return None
        arms = packed.arms["SRE"]
        cancers = list(packed.coords["cancer"])
        shares = np.zeros((len(arms.cell), len(cancers)))
        for row, cells, weights in zip(shares, arms.cell, arms.weight, strict=True):
            for cell, weight in zip(cells, weights, strict=True):
                row[cancers.index(packed.cells[cell].cancer)] += weight
        alone = [c for c in range(len(cancers)) if shares.size and shares[:, c].max() < PURE]
        together = {(a, b): np.minimum(shares[:, a], shares[:, b]).sum() for a in alone for b in alone if a < b}
        if not together or max(together.values()) == 0:
            return None
        pair = list(max(together, key=together.get))  # pyright: ignore[reportArgumentType, reportCallIssue]
        weight = shares[np.minimum(shares[:, pair[0]], shares[:, pair[1]]) > 0][:, pair].mean(axis=0)
        at = np.array([[self._index[n][c] for n in COMPONENT_SITES] for c in pair])
        return at, np.log(weight / weight.sum())

    @cached_property
    def followed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Onset hazards that data after diagnosis inform: their positions, that of the shape, and logs of the years of follow-up."""
        data, years = self.model.packed.data, {}
        none = np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0)
        if (
            not {"onset_hazard", "onset_shape"} <= set(self._index)
            or self._parameter_at(self._index["onset_shape"][0]).family != "lognormal"
        ):
            return none
        if "incidence" in data:
            r = data["incidence"]
            for i in np.flatnonzero(np.asarray(r.metachronous) > 0):
                years.setdefault(int(r.onset[i]), []).append(np.trapezoid(r.stay[i], ONSET_YEARS))
        if "incidence_curve" in data:
            r = data["incidence_curve"]
            for level, at in zip(r.onset, r.years, strict=True):
                years.setdefault(int(level), []).append(np.nanmedian(at))
        if not years:
            return none
        at = self._index["onset_hazard"][sorted(years)]
        return at, self._index["onset_shape"][:1], np.array([np.log(years[k]).mean() for k in sorted(years)])

    @property
    def constants(self) -> list[np.ndarray]:
        """All numbers that the maps have written in: positions, and numbers of priors."""
        priors = [self._parameter_at(p) for p in self.bent]
        widths = np.array([p.sd or p.log_sd or 1.0 for p in priors])
        mixed = self.mixed or ()
        return [self.scales, self.effects, self.bent, widths, *self.half_normals, *self.sized, *self.followed, *mixed]

    def unmix(self, z: Array) -> Array:
        """Baselines and ratios of the two mixed cancers -> log sums and log ratios of their component hazards."""
        if self.mixed is None:
            return z
        at, log_weight = self.mixed
        ratios = z[at].at[:, 0].set(0.0)
        x = z[at[:, :1]] + ratios - jax.scipy.special.logsumexp(ratios, axis=1, keepdims=True)
        total = jax.scipy.special.logsumexp(x + log_weight[:, None], axis=0)
        return z.at[at].set(jnp.stack([total, x[0] - x[1]]))

    def mix(self, z: Array) -> Array:
        """Inverse of :meth:`unmix`; both have a Jacobian determinant of 1 or -1 everywhere."""
        if self.mixed is None:
            return z
        at, log_weight = self.mixed
        total, difference = z[at[0]], z[at[1]]
        first = total - jnp.logaddexp(log_weight[0], log_weight[1] - difference)
        x = jnp.stack([first, first - difference])
        ratios = x - x[:, :1]
        return z.at[at].set(ratios.at[:, 0].set(jax.scipy.special.logsumexp(x, axis=1)))

    def coordinates(self, z: Float[Array, " n"]) -> Float[Array, " n"]:
        """``x(z)``: half-normal sites as scores, kills and elasticities by size, onset at the end of follow-up, mixed cancers as sums."""
        at, log_scale = self.half_normals
        onset, shape, log_years = self.followed
        sized, log_median = self.sized
        x = self.unmix(z).at[onset].add(jnp.exp(z[shape]) * log_years)
        x = x.at[sized].set(softplus_score(x[sized] - log_median))
        return x.at[at].set(half_normal_score(x[at] - log_scale))

    def values(self, x: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """Inverse of :meth:`coordinates`, and the log determinant of its Jacobian."""
        at, log_scale = self.half_normals
        log_x = log_half_normal(x[at])
        onset, shape, log_years = self.followed
        sized, log_median = self.sized
        log_size = log_softplus(x[sized])
        z = x.at[onset].add(-jnp.exp(x[shape]) * log_years).at[sized].set(log_size + log_median)
        log_det = log_half_normal_slope(x[at], log_x).sum() + log_softplus_slope(x[sized], log_size).sum()
        return self.mix(z.at[at].set(log_x + log_scale)), log_det

    def _log_sd(self, scores: Float[Array, " scale"]) -> Float[Array, " scale"]:
        """Logs of the standard deviations that have these normal scores."""
        return log_half_normal(scores) + self._log_scales

    def _own(self, log_sd: Float[Array, " scale"]) -> Float[Array, "effect effect"]:
        """Prior precision of the effects given the logs of their standard deviations."""
        return jnp.tensordot(jnp.exp(-2.0 * log_sd), jnp.asarray(self.design), axes=1)

    @cached_property
    def _own_at(self) -> Callable[[Any], Array]:
        return jax.jit(lambda scores: self._own(self._log_sd(scores)))

    def arrays(
        self, points: Sequence[Point], centre: np.ndarray | None = None, scale_sd: float | np.ndarray = 0.5
    ) -> Arrays:
        """The map's arrays from the curvature of the density.

        Given the standard deviations the density of effects and the rest is approximated by their prior and a Gaussian factor;
        its natural parameters are the means over the points (of one point: Laplace's approximation, or a Newton step if the
        gradient there does not vanish).

        Parameters
        ----------
        points
            Where the density was looked at (rows and columns of the standard deviations are not used).
        centre, scale_sd
            Posterior location (default: that of the points) and spread of the normal score of each standard deviation.
        """
        s, e, a = self.scales, self.effects, self.rest
        both = np.concatenate([a, e])
        H, gradient, x = [], [], []
        for p in points:
            own = np.asarray(self._own_at(p.x[s]))
            factor, slope = p.hessian[np.ix_(both, both)].copy(), p.gradient[both].copy()
            factor[len(a) :, len(a) :] -= own
            slope[len(a) :] -= own @ p.x[e]
            H.append(factor)
            gradient.append(slope)
            x.append(p.x[both])
        middle, precision = np.mean(x, axis=0), np.mean(H, axis=0)
        pull = np.mean([h @ (at - middle) - g for h, at, g in zip(H, x, gradient, strict=True)], axis=0)
        values, vectors = np.linalg.eigh(0.5 * (precision + precision.T))
        precision = (vectors * np.maximum(values, max(FLOOR, values[-1] / STIFFEST))) @ vectors.T
        pull += precision @ middle
        Haa, Hae, Hee = precision[: len(a), : len(a)], precision[: len(a), len(a) :], precision[len(a) :, len(a) :]
        slope = -np.linalg.solve(Haa, Hae)
        of_effects = Hee + Hae.T @ slope
        return {
            "centre": jnp.asarray(np.mean([p.x[s] for p in points], axis=0) if centre is None else centre),
            "scale_sd": jnp.broadcast_to(jnp.asarray(scale_sd, dtype=float), s.shape),
            "slope": jnp.asarray(slope),
            "offset": jnp.asarray(np.linalg.solve(Haa, pull[: len(a)])),
            "rest": jnp.asarray(np.linalg.cholesky(np.linalg.inv(Haa))),
            "precision": jnp.asarray(0.5 * (of_effects + of_effects.T)),
            "pull": jnp.asarray(pull[len(a) :] + slope.T @ pull[: len(a)]),
        }

    def empty(self) -> Arrays:
        """Arrays of the right shapes."""
        n = self.size
        return self.arrays([Point(np.zeros(n), np.zeros(n), np.eye(n) * 1e3)])

    def _given(self, log_sd: Array, g: Arrays) -> tuple[Array, Array]:
        """Mean of the effects given the logs of the standard deviations, and the Cholesky factor of their precision."""
        R = jnp.linalg.cholesky(g["precision"] + self._own(log_sd))
        return jax.scipy.linalg.cho_solve((R, True), g["pull"]), R

    def forward(self, w: Float[Array, " n"], g: Arrays) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """``x(w)`` and the log determinant of its Jacobian (up to a constant)."""
        s_at, e_at, a_at = self.scales, self.effects, self.rest
        scores = g["centre"] + g["scale_sd"] * w[s_at]
        log_sd = self._log_sd(scores)
        mean, R = self._given(log_sd, g)
        at, ratio = self._bent_slice, self._ratio(log_sd, R)
        coordinate, slope = bend(w[e_at][at], ratio)
        as_seen, _ = bend(w[e_at][at], 1.0 / ratio)
        seen = mean + jax.scipy.linalg.solve_triangular(R.T, w[e_at].at[at].set(as_seen), lower=False)
        a = g["offset"] + g["slope"] @ seen + g["rest"] @ w[a_at]
        e = seen.at[at].add((coordinate - as_seen) / jnp.diagonal(R)[at])
        log_det = jnp.log(slope).sum() - jnp.log(jnp.diagonal(R)).sum()
        return jnp.zeros_like(w).at[s_at].set(scores).at[e_at].set(e).at[a_at].set(a), log_det

    def _ratio(self, log_sd: Array, R: Array) -> Array:
        """Of each bent effect: width of its prior over that of its approximate posterior, given mean and standard deviation."""
        return jnp.exp(self._log_width(log_sd)) * jnp.diagonal(R)[self._bent_slice]

    def backward(self, x: Float[Array, " n"], g: Arrays) -> Float[Array, " n"]:
        """``w(x)``."""
        s_at, e_at, a_at = self.scales, self.effects, self.rest
        log_sd = self._log_sd(x[s_at])
        mean, R = self._given(log_sd, g)
        ratio, at = self._ratio(log_sd, R), self._bent_slice
        seen, bent = x[e_at] - mean, jnp.zeros(len(self.bent))
        for j in reversed(range(len(self.bent))):  # each depends on those after it, in the coordinate that others see
            k = at.start + j
            others = R[k + 1 :, k] @ seen[k + 1 :]
            u = unbend(R[k, k] * seen[k] + others, ratio[j])
            bent = bent.at[j].set(u)
            seen = seen.at[k].set((bend(u, 1.0 / ratio[j])[0] - others) / R[k, k])
        a = x[a_at] - g["offset"] - g["slope"] @ (mean + seen)
        e = (R.T @ seen).at[at].set(bent)
        w = jnp.zeros_like(x).at[s_at].set((x[s_at] - g["centre"]) / g["scale_sd"]).at[e_at].set(e)
        return w.at[a_at].set(jax.scipy.linalg.solve_triangular(g["rest"], a, lower=True))
