"""The closed lists of words that the files may use."""

from typing import Literal, get_args

Cancer = Literal["breast", "prostate", "lung", "other_solid", "myeloma"]
StudyCancer = Literal["breast", "prostate", "lung", "other_solid", "myeloma", "mixed", "all_solid"]
Component = Literal["fracture", "radiation", "surgery", "cord_compression", "hypercalcaemia", "therapy_change"]
Detection = Literal["survey", "clinical", "symptomatic"]
Death = Literal["competing", "event", "censored"]
Design = Literal["randomised", "single_arm", "cohort", "registry", "preclinical"]
Law = Literal["fixed", "staggered"]
Pretreatment = Literal["none", "bisphosphonate_12_months"]
TimeUnit = Literal["month", "day", "week", "year"]
Unit = Literal[
    "percent",
    "fraction",
    "month",
    "day",
    "week",
    "year",
    "ratio",
    "1/year",
    "count",
    "percentage_point",
    "percent_change",
]
Estimator = Literal["crude", "km", "aj", "cox", "andersen_gill", "model", "none"]
Use = Literal["fit", "check", "no"]
Statistic = Literal[
    "proportion",
    "first_event_proportion",
    "any_event_proportion",
    "median",
    "median_not_reached",
    "survival_at",
    "event_free_at",
    "cumulative_incidence",
    "incidence_proportion",
    "prevalence",
    "completion",
    "hazard_ratio",
    "rate_ratio",
    "risk_difference",
    "relative_risk_reduction",
    "odds_ratio",
    "mean_rate",
    "mean_count",
    "mean_period_rate",
    "percent_change_median",
    "percent_change_mean",
    "responder_proportion",
    "bound_range",
]

CANCERS: tuple[str, ...] = get_args(Cancer)
STUDY_CANCERS: tuple[str, ...] = get_args(StudyCancer)
COMPONENTS: tuple[str, ...] = get_args(Component)
DETECTIONS: tuple[str, ...] = get_args(Detection)
DEATHS: tuple[str, ...] = get_args(Death)
DESIGNS: tuple[str, ...] = get_args(Design)
LAWS: tuple[str, ...] = get_args(Law)
PRETREATMENTS: tuple[str, ...] = get_args(Pretreatment)
TIME_UNITS: tuple[str, ...] = get_args(TimeUnit)
UNITS: tuple[str, ...] = get_args(Unit)
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
USES: tuple[str, ...] = get_args(Use)
STATISTICS: tuple[str, ...] = get_args(Statistic)

#: Endpoints that need no event definition in study.yaml.
ENDPOINTS: tuple[str, ...] = (
    "OS",
    "PFS",
    "ORR",
    "bone_metastasis",
    "uNTx",
    "BSAP",
    "ALP",
    "LDH",
    "PSA",
    "pain",
    "completion",
    "safety",
)

#: Columns of outcomes.csv, in order.
OUTCOME_COLUMNS: tuple[str, ...] = (
    "outcome_id",
    "arm",
    "versus",
    "endpoint",
    "component",
    "statistic",
    "time",
    "time_unit",
    "value",
    "unit",
    "low",
    "high",
    "level",
    "estimator",
    "events",
    "n",
    "use",
    "source",
    "where",
    "note",
)

#: Statistics that compare two arms.
CONTRASTS: frozenset[str] = frozenset(
    {"hazard_ratio", "rate_ratio", "risk_difference", "relative_risk_reduction", "odds_ratio"}
)

#: Statistics that are shares of patients, between 0 and 1.
PROPORTIONS: frozenset[str] = frozenset(
    {
        "proportion",
        "first_event_proportion",
        "any_event_proportion",
        "survival_at",
        "event_free_at",
        "cumulative_incidence",
        "incidence_proportion",
        "prevalence",
        "completion",
        "responder_proportion",
    }
)

_SHARE = ("percent", "fraction")

#: The units that each statistic may have.
STATISTIC_UNITS: dict[str, tuple[str, ...]] = {
    **{statistic: _SHARE for statistic in sorted(PROPORTIONS)},
    "median": TIME_UNITS,
    "median_not_reached": TIME_UNITS,
    "hazard_ratio": ("ratio",),
    "rate_ratio": ("ratio",),
    "odds_ratio": ("ratio",),
    "risk_difference": ("percentage_point", "fraction"),
    "relative_risk_reduction": _SHARE,
    "mean_rate": ("1/year",),
    "mean_period_rate": ("1/year", "count"),
    "mean_count": ("count",),
    "percent_change_median": ("percent_change",),
    "percent_change_mean": ("percent_change",),
    "bound_range": UNITS,
}
