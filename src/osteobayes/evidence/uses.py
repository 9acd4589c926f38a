"""What each row is used for: the statistic that takes it into the likelihood, or why the model cannot use it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from osteobayes.cycle import Catalogue, Regimen
from osteobayes.schema import Study

FAMILIES = (
    "crude",
    "split",
    "completion",
    "median",
    "landmark",
    "interval",
    "hazard_ratio",
    "rate_ratio",
    "ratio",
    "rate",
    "incidence",
    "incidence_curve",
    "prevalence",
    "responder",
    "marker",
)
"""Statistic families of the likelihood; each is one observed variable with dim ``outcome``. Where numbers of the same patients are
taken together (level 2) there is one more, ``patient_set``: what their joint law adds to their own."""

KINDS = ("SRE", "OS", "PFS", "bone_progression", "bone_metastasis", "BMFS")
"""Time-to-event kinds: skeletal events, overall survival, progression-free survival, progression in bone, onset of bone
metastasis in patients without it, onset or death."""
RESORPTION, FORMATION = ("uNTx", "CTX"), ("ALP", "BSAP", "P1NP")
"""Bone markers."""
RATES = {"mean_rate": "patient", "mean_count": "count", "mean_period_rate": "period", "incidence_rate": "pooled"}
"""Which mean a printed rate is: of the patients' own rates, of counts, of periods with an event, events over person-time."""


class Statistic(NamedTuple):
    """One statistic: its family and, within the family, which curve or law it reads."""

    family: str
    block: str = ""


def kind_of(endpoint: str, study: Study) -> str:
    """Time-to-event kind of an endpoint; empty if it has none."""
    return "SRE" if endpoint in study.events else endpoint if endpoint in KINDS else ""


def _timed(statistic: str, estimator: str, kind: str) -> Statistic | str:
    """Statistic of a number that follows from the hazards of one kind."""
    if statistic in ("proportion", "count"):
        return Statistic("crude", kind)
    if statistic in ("median", "median_not_reached"):
        return Statistic("median", kind)
    if statistic in ("survival_at", "event_free_at"):
        return Statistic("landmark", kind)
    if statistic == "interval_counts":
        return Statistic("interval", kind)
    if statistic == "cumulative_incidence":
        if estimator not in ("km", "aj"):
            return "the estimator of the cumulative incidence is not printed"
        return Statistic("landmark", f"{kind} aj" if estimator == "aj" else kind)
    if statistic == "hazard_ratio":
        return Statistic("hazard_ratio", kind)
    if statistic == "relative_risk_reduction" and estimator == "cox":
        return Statistic("hazard_ratio", kind)
    if statistic in ("odds_ratio", "risk_difference"):
        return Statistic("ratio", f"{kind} {'odds' if statistic == 'odds_ratio' else 'difference'}")
    return ""


def _recurrent(statistic: str, estimator: str) -> Statistic | str:
    """Statistic of a number that follows from recurrent skeletal events."""
    if statistic in RATES:
        return Statistic("rate", RATES[statistic])
    if statistic in ("rate_ratio", "relative_risk_reduction"):
        laws = {"andersen_gill": "andersen_gill", "model": "pooled"}
        if estimator not in laws:
            return "the estimator of the reduction is not printed: of a hazard, a rate or a share"
        return Statistic("rate_ratio", laws[estimator])
    return ""


def statistic_of(row: Any, study: Study) -> Statistic | str:
    """Statistic of a row of `Evidence.outcomes`, or why there is none.

    Parameters
    ----------
    row
        Needs ``statistic, endpoint, component, estimator``.
    study
        Its study.
    """
    statistic, endpoint, component, estimator = row.statistic, row.endpoint, row.component, row.estimator
    kind = kind_of(endpoint, study)
    none = f"no likelihood of {statistic} of {f'{endpoint} {component}'.strip()} yet"
    if statistic == "first_event_proportion":
        return Statistic("split") if component and kind == "SRE" else none
    if statistic == "share_of_events":
        return "the number of events that the shares are of is not part of the row" if kind == "SRE" else none
    if component and (kind != "SRE" or statistic == "proportion"):
        return none
    if statistic == "any_event_proportion":
        return Statistic("crude", "SRE") if component and kind == "SRE" else none
    if statistic == "completion":
        return Statistic("completion")
    if endpoint == "bone_metastasis":
        if statistic == "prevalence":
            return Statistic("prevalence")
        if statistic == "incidence_proportion":
            return Statistic("incidence")
        if statistic == "cumulative_incidence" and study.design in ("registry", "cohort"):
            return Statistic("incidence_curve")
        if statistic == "incidence_rate":
            return none
    if statistic == "responder_proportion":
        if endpoint in ("ORR", "pain"):
            return Statistic("responder", endpoint)
        if endpoint in (*RESORPTION, *FORMATION):
            if endpoint not in study.responses:
                return f"study.yaml does not say by how much {endpoint} falls in a responder (`responses`)"
            return Statistic("responder", "resorption" if endpoint in RESORPTION else "formation")
    if statistic in ("percent_change_median", "percent_change_mean") and endpoint in (*RESORPTION, *FORMATION):
        return Statistic("marker", "resorption" if endpoint in RESORPTION else "formation")
    found = (_recurrent(statistic, estimator) if kind == "SRE" and estimator != "cox" else "") or (
        _timed(statistic, estimator, kind) if kind else ""
    )
    return found or none


def as_ratio(row: Any) -> tuple[float, float, float]:
    """Value and limits of a contrast as a ratio (a reduction of 30 per cent is 0.7) or, of risks, as a difference of shares."""
    value, low, high = float(row.value), float(row.low), float(row.high)
    if row.statistic == "relative_risk_reduction":
        return 1.0 - value / 100.0, 1.0 - high / 100.0, 1.0 - low / 100.0
    if row.statistic == "risk_difference":
        return value / 100.0, low / 100.0, high / 100.0
    return value, low, high


def beyond(years: float) -> str:
    """Why a number that lies after the model's time grid is not used."""
    return f"it is read after the {12 * years:.0f} months that the model solves"


def unusable(row: Any, study: Study, catalogue: Catalogue, years: float = 160 * 7 / 365.25) -> str:
    """Why the model cannot use a row; empty if it can.

    Parameters
    ----------
    row
        A row of `Evidence.outcomes` (a named tuple).
    study
        Its study.
    catalogue
        Agents, with or without a mechanism.
    years
        End of the model's time grid.
    """
    found = statistic_of(row, study)
    if isinstance(found, str):
        return found
    family = found.family
    if study.design == "preclinical":
        return "animals inform priors, not the likelihood"
    tumour = study.arm(row.arm).tumour or study.tumour
    if study.arm_cancer(row.arm) == "other_solid" and tumour:
        return f"no baseline of its own for {tumour} in the model yet"
    if family in ("incidence", "incidence_curve"):
        if row.denominator not in ("diagnosed", "diagnosed_early"):
            return f"no likelihood of bone metastasis among {row.denominator or 'an unnamed population'} yet"
        if pd.isna(row.n) or (family == "incidence" and pd.isna(row.events)):
            return "no likelihood of a registry's share without its n yet"
        if study.design not in ("registry", "cohort"):
            return "no likelihood of onset in trials of prevention yet"
        return ""
    if family == "prevalence":
        if row.denominator not in ("metastatic", "advanced"):
            return f"no likelihood of bone metastasis among {row.denominator or 'an unnamed population'} yet"
        return "" if not pd.isna(row.n) else "the number of patients is not printed"
    if family in ("crude", "completion", "landmark", "responder", "rate", "marker", "median") and pd.isna(row.n):
        return "the number of patients is not printed"
    if family in ("crude", "responder") and pd.isna(row.events) and pd.isna(row.value):
        return "neither a count nor a share is printed"
    if family in ("landmark", "marker") and pd.isna(row.time):
        return "the time is not printed"
    if family == "landmark" and row.time_years > years * (1.0 + 1e-9):
        return beyond(years)
    if family in ("hazard_ratio", "rate_ratio", "ratio"):
        _, low, high = as_ratio(row)
        if not (low < high and (low > 0 or found.block.endswith("difference"))):
            return "the contrast has no printed interval"
    for name in filter(None, (row.arm, row.versus)):
        for cancer, regimen, _ in study.members(name):
            if regimen is None:
                return "the arm has no regimen"
            if missing := catalogue.without_mechanism(Regimen.parse(regimen, catalogue).agents):
                return f"no mechanism of {missing[0]} in the model yet"
            if cancer in ("mixed", "all_solid") and study.design != "registry":
                return "the arm mixes cancers in unknown shares"
    return ""


def uses(outcomes: pd.DataFrame, studies: Mapping[str, Study], catalogue: Catalogue) -> pd.DataFrame:
    """Use of each row.

    Returns
    -------
    DataFrame
        ``outcome_id``, ``study``, ``file``, ``row``, ``use``, ``rule``, ``family`` and ``block`` (empty: none) and ``unusable``
        (why the model cannot use it, whatever its ``use``).
    """
    records = []
    rows: Iterable[Any] = outcomes.itertuples()
    for row in rows:
        study = studies[row.study]
        found = statistic_of(row, study)
        family, block = ("", "") if isinstance(found, str) else found
        records.append(
            {
                "outcome_id": row.outcome_id, "study": row.study, "file": row.file, "row": row.row, "use": row.use,
                "rule": row.rule, "family": family, "block": block, "unusable": unusable(row, study, catalogue),
            }
        )  # fmt: skip
    columns = ["outcome_id", "study", "file", "row", "use", "rule", "family", "block", "unusable"]
    return pd.DataFrame.from_records(records, columns=columns)


def summary(table: pd.DataFrame) -> str:
    """What the rows are used for, in plain text: families, rules, and what the model cannot use and why."""
    out = []
    for use in ("fit", "check", "no"):
        mine = table[table["use"] == use]
        out.append(f"{use}: {len(mine)} rows")
        if use != "fit":
            out += [f"  {rule}: {n}" for rule, n in mine["rule"].value_counts().items()]
            continue
        able, left = mine[mine["unusable"] == ""], mine[mine["unusable"] != ""]
        out += [f"  {family}: {n}" for family, n in able["family"].value_counts().items()]
        if len(left):
            out.append(f"  the model cannot use {len(left)} of them yet:")
            for reason, rows in left.groupby("unusable", sort=True):
                out.append(f"    {reason}: " + ", ".join(rows["outcome_id"]))
    return "\n".join(out)
