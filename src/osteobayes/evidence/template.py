"""Template of a study folder, with comments that say what goes where."""

import csv
import re
from pathlib import Path

from osteobayes.errors import EvidenceError, Problem
from osteobayes.schema import CANCERS, COMPONENTS, DEATHS, DESIGNS, DETECTIONS, LAWS, OUTCOME_COLUMNS

_YAML = """\
# yaml-language-server: $schema={schema}
# Everything that says FILL must be filled or its line removed; `null` means: no source prints it. Words: datasets/README.md.
format: 1
id: {id}
title: FILL short name of the trial
registry: null                # NCT number, only if you read it
design: randomised            # {designs}
cancer: breast                # {cancers}; mixed: give the arms a mix
setting: FILL who was treated, e.g. bone metastases of breast cancer, first line
years: null                   # years of entry, as printed
patients: {patients}          # the patient set: another report of the same patients names the same set
population:
  pretreatment: none
  prior_sre_percent: null     # percent with a skeletal event before entry
follow_up:                    # months
  law: staggered              # {laws}
  horizon_months: null        # longest follow-up
  accrual_months: null
  median_months: null
events:                       # what counted as an event, by endpoint name
  SRE:
    components: [fracture, radiation, surgery, cord_compression]   # {components}
    detection: survey         # {detections}
    death: competing          # {deaths}
arms:                         # regimen: AGENT [AMOUNT UNIT] [qNw, daily, bid], joined by ` + `; placebo: background treatment only
  - {{id: control, label: FILL as printed, n: 100, regimen: placebo}}
  - {{id: treated, label: FILL as printed, n: 100, regimen: zoledronic acid 4 mg q4w}}
sources:
  - id: paper
    citation: FILL authors, journal, year, pages
    year: 2000
    seen_at: ["https://FILL"]
"""


def write_template(study_id: str, out: Path, schema: str = "../study.schema.json") -> Path:
    """Write ``<out>/<study_id>/study.yaml`` and ``outcomes.csv`` with two example rows.

    Raises
    ------
    EvidenceError
        If the id cannot be one, or its folder exists.
    """
    place = out / study_id
    if not re.fullmatch(r"[a-z][a-z0-9_]*", study_id):
        message = f"{study_id!r} is not an id"
        mend = "use lower-case letters, digits and underscores, a letter first"
        raise EvidenceError([Problem(out.as_posix(), None, "id", message, mend)])
    if place.exists():
        raise EvidenceError([Problem(place.as_posix(), None, "", "the folder is there already", "choose another id")])
    place.mkdir(parents=True)
    text = _YAML.format(
        schema=schema, id=study_id, patients=study_id.upper(), designs=", ".join(DESIGNS), cancers=", ".join(CANCERS),
        laws=", ".join(LAWS), components=", ".join(COMPONENTS), detections=", ".join(DETECTIONS), deaths=", ".join(DEATHS),
    )  # fmt: skip
    (place / "study.yaml").write_text(text, encoding="utf-8")
    with (place / "outcomes.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, OUTCOME_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for arm in ("control", "treated"):
            writer.writerow(
                {
                    "outcome_id": f"{study_id}/crude_{arm}", "arm": arm, "endpoint": "SRE", "statistic": "proportion",
                    "time": "FILL", "time_unit": "month", "value": "FILL", "unit": "percent", "estimator": "crude",
                    "events": "FILL", "n": "100", "use": "fit", "source": "paper", "where": "FILL page or table",
                }
            )  # fmt: skip
    return place
