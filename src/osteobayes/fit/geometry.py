"""Coordinates in which the posterior is nearly a standard normal: a Laplace approximation given the standard deviations.

Study effects and their standard deviations form funnels: an effect's posterior width depends on the standard deviation, by
how much depends on its data. Neither centring nor non-centring removes that for effects with unequal data (Papaspiliopoulos
et al. 2007, Stat Sci 22:59). Here the effects are centred and scaled by what a Laplace approximation at the mode says their
posterior is *given* the standard deviations, so every effect gets the degree of centring that its data ask for, jointly with
everything that it is correlated with. The map is exact (its Jacobian is accounted for): it changes the cost, not the law.

Two cancers that stand only in mixed arms (lung and other solid tumours in the shipped evidence) are informed through the sum
of their hazards: a curved ridge for each component of skeletal events. Before the Laplace map their baselines and
component ratios are therefore exchanged for log sums and log ratios of their component hazards (volume is preserved).
"""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from osteobayes.model import Model

COMPONENT_SITES = ("sre_baseline", "radiation_logit", "surgery_logit", "cord_compression_logit")
"""Sites by cancer that make the component hazards: their log total, and log ratios to the first component."""
PURE = 0.9
"""An arm with at least this share of one cancer informs that cancer alone."""
FLOOR = 0.05
"""Smallest curvature of the log density without the effects' own priors; flat or saddle directions are raised to it."""

Arrays = dict[str, Array]


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
        """Positions of the effects, and of the means of pooled ones."""
        parts = [i for group in self._effects.values() for pair in group for i in pair if i is not None]
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=int)

    @cached_property
    def rest(self) -> np.ndarray:
        """All other positions."""
        return np.setdiff1d(np.arange(self.size), np.concatenate([self.scales, self.effects]))

    @cached_property
    def design(self) -> np.ndarray:
        """``A[k]``: prior precision of the effects is ``sum_k A[k] / sd_k^2`` [scale, effect, effect]."""
        A = np.zeros((len(self.scales), len(self.effects), len(self.effects)))
        for k, name in enumerate(sorted(self._effects)):
            for members, mean in self._effects[name]:
                for i in members:
                    v = np.zeros(len(self.effects))
                    v[np.searchsorted(self.effects, i)] = 1.0
                    if mean is not None:
                        v[np.searchsorted(self.effects, mean[0])] = -1.0
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

    def arrays(self, z: np.ndarray, hessian: np.ndarray, scale_sd: float | np.ndarray = 0.5) -> Arrays:
        """The map's arrays from a mode given its standard deviations.

        Parameters
        ----------
        z
            Where the gradient by all but the log standard deviations vanishes.
        hessian
            Of the negative log density there (the rows of the log standard deviations are not used).
        scale_sd
            Posterior spread of each log standard deviation, roughly.
        """
        s, e, a = self.scales, self.effects, self.rest
        J = np.asarray(jax.jacobian(self.mix)(self.unmix(jnp.asarray(z))))
        z, hessian = np.asarray(self.unmix(jnp.asarray(z))), J.T @ hessian @ J  # exact where the gradient vanishes
        own = np.tensordot(np.exp(-2.0 * z[s]), self.design, axes=1)
        both = np.concatenate([a, e])
        H = hessian[np.ix_(both, both)].copy()
        H[len(a) :, len(a) :] -= own
        values, vectors = np.linalg.eigh(0.5 * (H + H.T))
        H = (vectors * np.maximum(values, FLOOR)) @ vectors.T
        Haa, Hae, Hee = H[: len(a), : len(a)], H[: len(a), len(a) :], H[len(a) :, len(a) :]
        slope = -np.linalg.solve(Haa, Hae)
        precision = Hee + Hae.T @ slope
        return {
            "centre": jnp.asarray(z),
            "scale_sd": jnp.broadcast_to(jnp.asarray(scale_sd, dtype=float), s.shape),
            "slope": jnp.asarray(slope),
            "rest": jnp.asarray(np.linalg.cholesky(np.linalg.inv(Haa))),
            "precision": jnp.asarray(0.5 * (precision + precision.T)),
            "pull": jnp.asarray((precision + own) @ z[e]),
        }

    def empty(self) -> Arrays:
        """Arrays of the right shapes."""
        z = np.zeros(self.size)
        return self.arrays(z, np.eye(self.size) * (1.0 + len(self.scales)) + 0.0)

    def _given(self, s: Array, g: Arrays) -> tuple[Array, Array]:
        """Mean of the effects given the log standard deviations, and the Cholesky factor of their precision."""
        P = g["precision"] + jnp.tensordot(jnp.exp(-2.0 * s), jnp.asarray(self.design), axes=1)
        R = jnp.linalg.cholesky(P)
        return jax.scipy.linalg.cho_solve((R, True), g["pull"]), R

    def forward(self, w: Float[Array, " n"], g: Arrays) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """``z(w)`` and the log determinant of its Jacobian (up to a constant)."""
        s_at, e_at, a_at = self.scales, self.effects, self.rest
        centre = g["centre"]
        s = centre[s_at] + g["scale_sd"] * w[s_at]
        mean, R = self._given(s, g)
        e = mean + jax.scipy.linalg.solve_triangular(R.T, w[e_at], lower=False)
        a = centre[a_at] + g["slope"] @ (e - centre[e_at]) + g["rest"] @ w[a_at]
        z = jnp.zeros_like(w).at[s_at].set(s).at[e_at].set(e).at[a_at].set(a)
        return self.mix(z), -jnp.log(jnp.diagonal(R)).sum()

    def inverse(self, z: np.ndarray, g: Arrays) -> np.ndarray:
        """``w(z)``."""
        x = self.unmix(jnp.asarray(z))
        s_at, e_at, a_at = self.scales, self.effects, self.rest
        centre = g["centre"]
        mean, R = self._given(x[s_at], g)
        a = x[a_at] - centre[a_at] - g["slope"] @ (x[e_at] - centre[e_at])
        w = (
            jnp.zeros_like(x)
            .at[s_at]
            .set((x[s_at] - centre[s_at]) / g["scale_sd"])
            .at[e_at]
            .set(R.T @ (x[e_at] - mean))
        )
        return np.asarray(w.at[a_at].set(jax.scipy.linalg.solve_triangular(g["rest"], a, lower=True)))
