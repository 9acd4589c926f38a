"""The closed lists of words that the files may use."""

from typing import Literal, get_args

Cancer = Literal["breast", "prostate", "lung", "other_solid", "myeloma"]
StudyCancer = Literal["breast", "prostate", "lung", "other_solid", "myeloma", "mixed", "all_solid"]
Component = Literal["fracture", "radiation", "surgery", "cord_compression", "hypercalcaemia", "therapy_change"]
AdverseEvent = Literal[
    "onj",
    "hypocalcaemia",
    "hypocalcaemia_symptomatic",
    "hypocalcaemia_grade4",
    "renal_deterioration",
    "renal_impairment",
    "acute_renal_failure",
    "creatinine_grade4",
    "any",
    "serious",
    "fatal_ae",
    "related_ae",
    "discontinuation_ae",
    "dlt",
    "bone_related",
    "fracture_any",
    "fracture_pathological",
    "fracture_non_pathological",
    "grade3_4_any",
    "grade3_4_patients",
    "grade3_4_anaemia",
    "grade3_4_neutropenia",
    "grade3_4_thrombocytopenia",
    "grade3_hypophosphataemia",
    "grade3_pain",
    "grade3plus_any",
    "grade3plus_anaemia",
    "grade3plus_fatigue",
    "grade3plus_neutropenia",
    "grade3plus_thrombocytopenia",
    "trae_any",
    "trae_grade3_4",
    "trae_grade3_5",
    "trae_grade3plus",
    "trae_grade4_5",
    "irae_arthralgia",
    "irae_hypothyroidism",
    "irae_rash",
    "cardiac",
    "cardiac_failure",
    "fatigue",
    "haemorrhage",
    "hospitalised_any_cause",
    "hypothyroidism",
    "keratoacanthoma_or_scc",
    "peripheral_oedema",
    "pruritus",
    "skin_scc",
]
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
    "mean",
    "risk_ratio",
    "share_of_events",
    "incidence_rate",
    "difference",
    "count",
]

CANCERS: tuple[str, ...] = get_args(Cancer)
STUDY_CANCERS: tuple[str, ...] = get_args(StudyCancer)
COMPONENTS: tuple[str, ...] = get_args(Component)
ADVERSE_EVENTS: tuple[str, ...] = get_args(AdverseEvent)
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
    "BMFS",
    "DFS",
    "TTP",
    "DOR",
    "DCR",
    "recurrence",
    "distant_recurrence",
    "bone_recurrence",
    "cancer_death",
    "bone_progression",
    "visceral_metastasis",
    "bone_scan",
    "bone_response",
    "CTX",
    "P1NP",
    "lesion_type",
    "bone_agent_use",
    "follow_up",
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
    {
        "hazard_ratio",
        "rate_ratio",
        "risk_ratio",
        "risk_difference",
        "relative_risk_reduction",
        "odds_ratio",
        "difference",
    }
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
        "share_of_events",
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
    "mean": TIME_UNITS,
    "risk_ratio": ("ratio",),
    "incidence_rate": ("1/year",),
    "difference": (*TIME_UNITS, "1/year"),
    "count": ("count",),
}
