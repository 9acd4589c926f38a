"""Patients still in the study at a landmark: alive and not dropped out."""

from jaxtyping import Array, Float

from osteobayes.observe.distributions import binomial_draw, binomial_log_lik

__all__ = ["expected", "log_lik", "simulate"]


def expected(
    alive: Float[Array, "member time"], weights: Float[Array, " member"], dropout, p: Float[Array, " time"]
) -> Float[Array, ""]:
    """Probability of being alive and not dropped out at tau.

    Parameters
    ----------
    alive : array [M, T]
        Survival of the members (`osteobayes.observe.frailty.alive`).
    weights : array [M]
        Member weights at entry.
    dropout : scalar
        exp(-C(tau)), probability of no dropout by tau (independent of death).
    p : array [T]
        `interpolation(t, tau)`.
    """
    return (weights @ (alive @ p)) * dropout


def log_lik(completers, n, probability) -> Float[Array, ""]:
    """Binomial log likelihood with constants (``completers`` may be fractional)."""
    return binomial_log_lik(completers, n, probability)


def simulate(key, n, probability) -> Float[Array, ""]:
    """Draw a replicate of the number of completers."""
    return binomial_draw(key, n, probability)
