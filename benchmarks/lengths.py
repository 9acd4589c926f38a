"""Effective draws of Hamiltonian trajectories of fixed lengths on normal laws of several widths (exact dynamics, no rejection).

uv run python benchmarks/lengths.py

A direction of standard deviation s turns by the angle L / s in a trajectory of length L: the place has autocorrelation cos(L / s), the
squared distance from the middle cos^2(L / s) (what R-hat of folded draws and tail ESS see). Printed: effective draws per unit of length
(gradients are in proportion to it), by width, for the ranges of :mod:`osteobayes.fit.hmc` and for one even range.
"""

import numpy as np

from osteobayes.fit.hmc import GOLDEN, MOST_STEPS, steps_at

WIDTHS = (0.7, 1.0, 1.3, 1.6, 2.0, 2.4, 3.0)
LAGS = 60


def effective(correlation: np.ndarray) -> float:
    """Effective draws a draw of a chain whose correlation from one draw to the next is in turn one of these."""
    product, total = np.ones(len(correlation)), 0.0
    for lag in range(LAGS):
        product = product * np.roll(correlation, -lag)
        total += product.mean()
    return 1.0 / (1.0 + 2.0 * total)


def main() -> None:
    place = np.arange(2000)
    even = ((0.5, 5.0), (0.45, 4.5), (0.6, 6.0), (1.0, 3.0))
    ranges = {f"even, {a:.2f} to {b:.1f}": a + (b - a) * (place * GOLDEN % 1.0) for a, b in even}
    for longest in (5.0, 6.0, 7.0):
        step = longest / MOST_STEPS
        ranges[f"two ranges, longest {longest:.0f}"] = step * np.asarray(steps_at(place, step, longest))
    print("widths".ljust(28), *(f"{s:6.1f}" for s in WIDTHS))
    for name, lengths in ranges.items():
        for what, power in (("place", 1), ("spread", 2)):
            found = [effective(np.cos(lengths / s) ** power) / lengths.mean() for s in WIDTHS]
            print(f"{name}, {what}".ljust(28), *(f"{x:6.3f}" for x in found), f"  mean length {lengths.mean():.2f}")


if __name__ == "__main__":
    main()
