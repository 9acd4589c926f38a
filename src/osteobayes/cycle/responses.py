"""Dimensionless response functions, each equal to 1 in healthy bone (argument 1).

Because every arrow of the cycle is one of these, the healthy state (all bone states 1, no tumour) is a fixed point for
*every* parameter value: no constraint has to be solved while sampling.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-12


def positive(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``max(x, 0)``: keeps a state that a solver stage left slightly negative away from the poles of the responses."""
    return jnp.maximum(x, 0.0)


def log_positive(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Natural logarithm with the argument floored at 1e-12, so that it is finite on the whole real line."""
    return jnp.log(jnp.maximum(x, FLOOR))


def power(log_x: Float[Array, "..."], gamma: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """``x**gamma`` from a shared logarithm."""
    return jnp.exp(gamma * log_x)


def up(xg: Float[Array, "..."], fold: Float[Array, "..."]) -> Float[Array, "..."]:
    """Saturating stimulation ``A x^g / (A - 1 + x^g)`` of ``xg = x^g``: 0 at 0, 1 at 1, ``A`` (maximal fold) at infinity.

    The log-log slope in healthy bone is ``g (1 - 1/A)``.
    """
    return fold * xg / (fold - 1.0 + xg)


def down(xg: Float[Array, "..."], fold: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inhibition ``A / (1 + (A - 1) x^g)`` of ``xg = x^g``: ``A`` at 0, 1 at 1, 0 at infinity."""
    return fold / (1.0 + (fold - 1.0) * xg)


def down_to(xg: Float[Array, "..."], fold: Float[Array, "..."], floor: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inhibition between two plateaus: ``A`` at 0, 1 at 1, ``m`` at infinity (``0 < m < 1 < A``)."""
    return floor + (fold - floor) / (1.0 + (fold - 1.0) / (1.0 - floor) * xg)
