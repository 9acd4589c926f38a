"""What each row is used for: the statistic family that takes it into the likelihood, or why the model cannot use it."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from osteobayes.cycle import Catalogue, Regimen
from osteobayes.schema import Study

FAMILIES = ("crude", "split", "completion", "median", "hazard_ratio", "rate", "incidence", "incidence_curve")
"""Statistic families of the likelihood; each is one observed variable with dim ``outcome``."""

NO_CURVES = "no likelihood of interval counts of a curve yet"
"""Why the model cannot use a curve."""


def family_of(statistic: str, endpoint: str, component: str, study: Study) -> str | None:
    """Statistic family that has a likelihood for a kind of number; None if there is none yet."""
    skeletal, timed = endpoint in study.events, endpoint in study.events or endpoint in ("OS", "PFS")
    if component:
        return "split" if statistic == "first_event_proportion" and skeletal else None
    if statistic == "proportion" and skeletal:
        return "crude"
    if statistic == "completion":
        return "completion"
    if statistic in ("median", "median_not_reached") and timed:
        return "median"
    if statistic == "hazard_ratio" and timed:
        return "hazard_ratio"
    if statistic == "mean_rate" and skeletal:
        return "rate"
    if endpoint == "bone_metastasis":
        return {"incidence_proportion": "incidence", "cumulative_incidence": "incidence_curve"}.get(statistic)
    return None


def unusable(row: Any, study: Study, catalogue: Catalogue) -> str:
    """Why the model cannot use a row; empty if it can.

    Parameters
    ----------
    row
        A row of `Evidence.outcomes` (a named tuple).
    study
        Its study.
    catalogue
        Agents, with or without a mechanism.
    """
    family = family_of(row.statistic, row.endpoint, row.component, study)
    if family is None:
        of = f"{row.endpoint} {row.component}".strip()
        return f"no likelihood of {row.statistic} of {of} yet"
    if study.design == "preclinical":
        return "animals inform priors, not the likelihood"
    tumour = study.arm(row.arm).tumour or study.tumour
    if row.cancer == "other_solid" and tumour:
        return f"no baseline of its own for {tumour} in the model yet"
    if family in ("incidence", "incidence_curve"):
        if row.denominator not in ("diagnosed", "diagnosed_early"):
            return f"no likelihood of bone metastasis among {row.denominator or 'an unnamed population'} yet"
        if pd.isna(row.n) or (family == "incidence" and pd.isna(row.events)):
            return "no likelihood of a registry's share without its n yet"
        if study.design not in ("registry", "cohort"):
            return "no likelihood of onset in trials of prevention yet"
        return ""
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
        ``outcome_id``, ``study``, ``file``, ``row``, ``use``, ``rule``, ``family`` (empty: none) and ``unusable`` (why the
        model cannot use it, whatever its ``use``).
    """
    records = []
    rows: Iterable[Any] = outcomes.itertuples()
    for row in rows:
        study = studies[row.study]
        records.append(
            {
                "outcome_id": row.outcome_id, "study": row.study, "file": row.file, "row": row.row, "use": row.use,
                "rule": row.rule, "family": family_of(row.statistic, row.endpoint, row.component, study) or "",
                "unusable": unusable(row, study, catalogue),
            }
        )  # fmt: skip
    columns = ["outcome_id", "study", "file", "row", "use", "rule", "family", "unusable"]
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
