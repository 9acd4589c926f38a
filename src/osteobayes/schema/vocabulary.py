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
Tumour = Literal[
    "breast_hr_positive",
    "breast_her2_positive",
    "prostate_castration_resistant",
    "prostate_castration_sensitive",
    "lung_nsclc",
    "lung_nonsquamous",
    "lung_adenocarcinoma",
    "lung_squamous",
    "lung_sclc",
    "renal",
    "bladder",
    "thyroid",
    "melanoma",
    "liver",
    "pancreas",
    "nasopharynx",
    "glioma",
    "neuroendocrine",
    "colorectal",
]
Denominator = Literal[
    "diagnosed",
    "diagnosed_early",
    "metastatic",
    "advanced",
    "bone_metastases",
    "all_bone_metastases",
    "all_cancers",
    "autopsied",
    "population",
    "treated",
    "lesions",
]
Fact = Literal[
    "agent_mix",
    "tumour_mix",
    "allocation",
    "accrual",
    "study_start",
    "data_cutoff",
    "planned_duration",
    "planned_n",
    "trial_duration",
    "follow_up_median",
    "follow_up_minimum",
    "follow_up_maximum",
    "exposure_median",
    "completion",
    "withdrawal",
    "crossover",
    "extension",
    "dose_interval",
    "dose_schedule",
    "assessment_interval",
    "imaging_schedule",
    "event_definition",
    "event_minimum_gap",
    "event_period",
    "death_handling",
    "proportion_denominator",
    "hypercalcaemia_counted",
    "non_inferiority_margin",
    "stratification",
    "eligibility",
    "randomised",
    "analysed",
    "treated",
    "evaluable",
    "excluded",
    "subset",
    "pooled_from",
    "intensive_pathway",
    "induction",
    "per_protocol",
    "age",
    "male",
    "ecog",
    "menopausal_status",
    "receptor_status",
    "node_positive",
    "bone_metastases",
    "bone_only",
    "bone_metastasis_number",
    "lytic_lesions",
    "lymph_nodes",
    "visceral_metastases",
    "time_since_bone_metastasis",
    "time_from_primary_to_bone_metastasis",
    "prior_sre",
    "prior_radiation_to_bone",
    "prior_chemotherapy",
    "prior_zoledronic_acid",
    "radiotherapy_before_entry",
    "bone_agent",
    "pain",
    "pain_medication",
    "ALP",
    "PSA",
    "uNTx",
    "haemoglobin",
    "marker_measured",
    "adverse_event_discontinuation",
]
FactUnit = Literal[
    "percent", "month", "week", "day", "year", "count", "ratio", "text", "date", "IU/L", "ug/L", "g/dL",
    "1/year", "percentage_point", "hazard_ratio",
]  # fmt: skip
Detection = Literal["survey", "clinical", "symptomatic"]
Death = Literal["competing", "event", "censored"]
Design = Literal["randomised", "single_arm", "cohort", "registry", "preclinical"]
TRIALS: tuple[Design, ...] = ("randomised", "single_arm")
"""Designs that choose their patients at entry, among those expected to live some months."""
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
    "percent_per_year",
    "per_10000_years",
    "per_100000_years",
    "hour",
    "per_uL",
    "pixel",
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
    "ratio_of_means",
    "interval_counts",
]

CANCERS: tuple[str, ...] = get_args(Cancer)
STUDY_CANCERS: tuple[str, ...] = get_args(StudyCancer)
COMPONENTS: tuple[str, ...] = get_args(Component)
ADVERSE_EVENTS: tuple[str, ...] = get_args(AdverseEvent)
TUMOURS: tuple[str, ...] = get_args(Tumour)
DENOMINATORS: tuple[str, ...] = get_args(Denominator)
FACTS: tuple[str, ...] = get_args(Fact)
FACT_UNITS: tuple[str, ...] = get_args(FactUnit)
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
    "PTHrP",
    "platelets",
    "white_cells",
    "half_life",
    "lesion_area",
    "lesion_count",
    "tumour_burden",
    "bone_volume",
    "osteoclasts",
)

#: Why a row is not fitted: the first words of the note of each row whose `use` is `check` or `no`, before a colon.
USE_RULES: dict[str, str] = {
    "same_patients": "another number of the same patients and endpoint family is fitted, here or in another study",
    "subgroup": "part of an arm, overlapping what is fitted or chosen after entry",
    "pooled": "pools studies or arms that are in the evidence on their own, or a meta-analysis of them",
    "not_printed": "what a likelihood needs was not printed: n, events, interval, time, or the weights of a mixture",
    "baseline": "describes the patients or the conduct of the study, not an outcome",
    "not_calibrated": "survival with a tumour outside the four groups, of patients not chosen for bone metastases",
    "transient": "read before the study ended; a later number of the same patients is preferred",
    "direction_only": "only a direction or a range was printed",
    "prognostic": "compares patients with each other, not treatments",
    "confounded": "compares treatments that were not randomised (immortal time, indication)",
    "outside_model": "a quantity that the mechanism does not predict (toxicity, pharmacokinetics, response elsewhere)",
    "preclinical": "animals inform priors, never the likelihood",
    "regimen": "what was given cannot be written as one regimen (dose changed, any agent of a class, none stated)",
    "selected": "survivors or other selected patients, not comparable with their arm at entry",
    "no_denominator": "the population that the share is of was not printed",
    "undecided": "a draft: a person has yet to choose",
    "doubtful": "the source contradicts itself or another one, or the number could not be traced",
}

#: Tumours of each cancer.
CANCER_TUMOURS: dict[str, tuple[str, ...]] = {
    "breast": tuple(t for t in TUMOURS if t.startswith("breast_")),
    "prostate": tuple(t for t in TUMOURS if t.startswith("prostate_")),
    "lung": tuple(t for t in TUMOURS if t.startswith("lung_")),
    "other_solid": tuple(t for t in TUMOURS if not t.startswith(("breast_", "prostate_", "lung_"))),
    "myeloma": (),
}

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
    "denominator",
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
        "ratio_of_means",
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
    "median": (*TIME_UNITS, "hour"),
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
    "mean": (*TIME_UNITS, "hour", "per_uL", "pixel", "count"),
    "risk_ratio": ("ratio",),
    "ratio_of_means": ("ratio",),
    "incidence_rate": ("1/year", "percent_per_year", "per_10000_years", "per_100000_years"),
    "difference": (*TIME_UNITS, "1/year"),
    "count": ("count",),
    "interval_counts": ("count",),
}
