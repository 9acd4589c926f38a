"""Arrays of the likelihood: arms, and the rows of each statistic."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int


class Arms(NamedTuple):
    """Arms of one kind; members are padded with weight 0.

    Effect indices count from 1 into the study-effect vectors; 0 means no effect. Arms share few event definitions.
    ``delay`` are weights over earlier times of the hazard of fractures that scheduled surveys find; it has no entry where no
    definition names a schedule.
    """

    counted: Float[Array, "definition component"]
    detection: Float[Array, "definition detection"]
    delay: Float[Array, "delayed earlier time"]
    definition: Int[Array, " arm"]
    cell: Int[Array, "arm member"]
    weight: Float[Array, "arm member"]
    sre_effect: Int[Array, " arm"]
    death_effect: Int[Array, " arm"]
    trial: Float[Array, " arm"]
    """1 for arms of trials, whose patients were chosen among those expected to live; 0 for cohorts and registries."""
    entry_effect: Int[Array, " arm"]
    progression_effect: Int[Array, " arm"]
    contrast: Int[Array, " arm"]
    dropout: Int[Array, " arm"]
    onset: Int[Array, " arm"]
    onset_effect: Int[Array, " arm"]
    prior_event: Float[Array, " arm"]
    """Share with a skeletal event before entry, less one half; 0 where it is not printed."""
    administrative: Float[Array, "arm time"]
    real: Int[Array, "real 2"] | None = None
    """Arm and place of the members that are no padding (:func:`real_members`); None: not told."""
    place: Int[Array, "arm member"] | None = None
    """Where each member stands in ``real``; padding stands for the arm's first."""

    def at(self, arms: Int[Array, " row"]) -> "Arms":
        """Some of the arms, in the order asked for; which members are real is not told of them."""
        return Arms(*self[:3], *(x[arms] for x in self[3:-2]))


def real_members(sizes: Sequence[int]) -> tuple[Int[np.ndarray, "real 2"], Int[np.ndarray, "arm member"]]:
    """``real`` and ``place`` of arms of so many members each."""
    real = np.array([(i, j) for i, n in enumerate(sizes) for j in range(n)], dtype=np.int32).reshape(-1, 2)
    first = np.concatenate([[0], np.cumsum(sizes)])[: len(sizes)]
    slot = np.arange(max(sizes, default=1))
    place = first[:, None] + np.where(slot < np.asarray(sizes)[:, None], slot, 0)
    return real, place.astype(np.int32)


class Crude(NamedTuple):
    """At least one event among all patients of the arm."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    n: Float[Array, " row"]


class Split(NamedTuple):
    """First events by component, given their total."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    total: Float[Array, " row"]


class Completion(NamedTuple):
    """Still in the study at a time."""

    arm: Int[Array, " row"]
    interpolation: Float[Array, "row time"]
    years: Float[Array, " row"]
    n: Float[Array, " row"]


class Median(NamedTuple):
    """Kaplan-Meier medians of one kind; ``reached`` 0: not reached by ``x``."""

    arm: Int[Array, " row"]
    low: Float[Array, " row"]
    high: Float[Array, " row"]
    reached: Float[Array, " row"]
    n: Float[Array, " row"]
    last: Float[Array, " row"]


class HazardRatio(NamedTuple):
    """Log hazard ratios of one kind, with the reference arm's own fitted number, if any, for the correlation."""

    treated: Int[Array, " row"]
    reference: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    se: Float[Array, " row"]
    allocation: Float[Array, " row"]
    has_crude: Float[Array, " row"]
    has_median: Float[Array, " row"]
    crude: Int[Array, " row"]
    median: Int[Array, " row"]


class Landmark(NamedTuple):
    """Kaplan-Meier or Aalen-Johansen curves read at landmarks; weights of a padded landmark are 0, its limits NaN."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row landmark time"]
    n: Float[Array, " row"]
    low: Float[Array, "row landmark"]
    high: Float[Array, "row landmark"]
    years: Float[Array, "row landmark"]


class Interval(NamedTuple):
    """Events by interval of a digitised curve or of individual times, among those effectively at risk."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row landmark time"]
    at_risk: Float[Array, "row landmark"]
    years: Float[Array, "row landmark"]


class RateRatio(NamedTuple):
    """Log ratios of the rates of recurrent skeletal events."""

    treated: Int[Array, " row"]
    reference: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    se: Float[Array, " row"]
    allocation: Float[Array, " row"]


class Ratio(NamedTuple):
    """Log odds ratios or differences of two arms' shares."""

    treated: Int[Array, " row"]
    reference: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    se: Float[Array, " row"]


class Rate(NamedTuple):
    """Mean rates or counts of skeletal events; ``gap``: least years between two that count as two."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    n: Float[Array, " row"]
    low: Float[Array, " row"]
    high: Float[Array, " row"]
    gap: Float[Array, " row"]


class Prevalence(NamedTuple):
    """Bone metastasis among patients with metastatic or advanced disease."""

    onset: Int[Array, " row"]
    effect: Int[Array, " row"]
    n: Float[Array, " row"]


class Responder(NamedTuple):
    """Responses of tumour, pain or a marker; ``fall`` is the least fall of a marker, per cent."""

    arm: Int[Array, " row"]
    quadrature: Float[Array, "row time"]
    interpolation: Float[Array, "row time"]
    fall: Float[Array, " row"]
    n: Float[Array, " row"]
    effect: Int[Array, " row"]


class PatientSet(NamedTuple):
    """Numbers of the same patients and endpoint: their places among the residuals (-1: none) and their correlations."""

    index: Int[Array, "set number"]
    correlation: Float[Array, "set number number"]


class Marker(NamedTuple):
    """Median (``mean`` 0) or mean (1) percent change of a marker in an arm."""

    arm: Int[Array, " row"]
    interpolation: Float[Array, "row time"]
    n: Float[Array, " row"]
    mean: Float[Array, " row"]
    effect: Int[Array, " row"]


class Incidence(NamedTuple):
    """Bone metastasis at diagnosis (``metachronous`` 0) or later (1) as a share of a registry's patients."""

    onset: Int[Array, " row"]
    cancer: Int[Array, " row"]
    effect: Int[Array, " row"]
    metachronous: Float[Array, " row"]
    stay: Float[Array, "row onset_time"]
    n: Float[Array, " row"]


class IncidenceCurve(NamedTuple):
    """Kaplan-Meier cumulative incidence of bone metastasis at landmarks (padded with NaN)."""

    onset: Int[Array, " row"]
    effect: Int[Array, " row"]
    years: Float[Array, "row landmark"]
    n: Float[Array, " row"]


PACKED: dict[str, type] = {
    "crude": Crude, "split": Split, "completion": Completion, "median": Median, "landmark": Landmark, "interval": Interval,
    "hazard_ratio": HazardRatio, "rate_ratio": RateRatio, "ratio": Ratio, "rate": Rate, "incidence": Incidence,
    "incidence_curve": IncidenceCurve, "prevalence": Prevalence, "responder": Responder, "marker": Marker,
}  # fmt: skip
"""What holds the rows of each family (of each of its blocks)."""
