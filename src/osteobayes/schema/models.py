"""Pydantic models of `study.yaml` and of one row of `outcomes.csv`."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from osteobayes.schema.reading import did_you_mean
from osteobayes.schema.vocabulary import (
    CANCER_TUMOURS,
    ENDPOINTS,
    AdverseEvent,
    Cancer,
    Component,
    Death,
    Denominator,
    Design,
    Detection,
    Estimator,
    Fact,
    FactUnit,
    Law,
    Pretreatment,
    Statistic,
    StudyCancer,
    TimeUnit,
    Tumour,
    Unit,
    Use,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Months = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _of_people(count: int) -> int:
    if count > 10_000_000_000:
        raise ValueError("more patients than there are people; correct the number")
    return count


Patients = Annotated[int, Field(gt=0), AfterValidator(_of_people)]


class _Model(BaseModel):
    """Frozen, and closed: a key that is not listed is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would read `true` as 1
            raise ValueError(
                f"{str(value).lower()} is neither a number nor a word; write the number, or quote the word"
            )
        return value


class MixMember(_Model):
    """One cell of an arm that mixes cancers or regimens."""

    cancer: Cancer
    regimen: Text | None = Field(default=None, description="Regimen of this member; null: the arm's.")
    weight: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    source: Text | None = Field(default=None, description="Where the weight was read, or how it was derived.")


class Arm(_Model):
    """A group of patients that was treated alike."""

    id: Name
    label: Text = Field(description="Name of the arm as printed.")
    n: Patients | None = Field(default=None, description="Patients; null if not printed.")
    cancer: StudyCancer | None = Field(default=None, description="Cancer of this arm; omit: the study's.")
    tumour: Tumour | None = Field(default=None, description="Histology or stage; omit: the study's.")
    regimen: Text | None = Field(default=None, description="Regimen text; `placebo`: backbone only.")
    mix: list[MixMember] | None = Field(default=None, description="Omit for an arm of one cancer and one regimen.")
    overlaps: list[Name] = Field(default=[], description="Arms that share patients with this subgroup or pool.")

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> "Arm":
        if self.mix is not None:
            total = math.fsum(member.weight for member in self.mix)
            if abs(total - 1) > 1e-3:
                raise ValueError(f"the weights of the mix sum to {total:g}, not 1; correct the weights")
            if self.cancer is not None:
                raise ValueError("the arm has a cancer and a mix; the mix names its cancers, remove `cancer`")
        return self


class FollowUp(_Model):
    """How long patients were followed, in months."""

    law: Law = Field(description="fixed: everyone to the horizon; staggered: uniform entry over the accrual.")
    horizon_months: Months | None = None
    accrual_months: Months | None = None
    median_months: Months | None = None
    minimum_months: Months | None = None
    cutoff: Text | None = Field(default=None, description="Date of the data cutoff, as printed.")
    source: Text | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _accrual_within_horizon(self) -> "FollowUp":
        if self.horizon_months and self.accrual_months and self.accrual_months > self.horizon_months:
            raise ValueError("accrual_months is longer than horizon_months; entry must end before follow-up does")
        for field in ("median_months", "minimum_months"):
            months = getattr(self, field)
            if self.horizon_months and months and months > self.horizon_months:
                raise ValueError(f"{field} is longer than horizon_months; correct one of the two")
        if self.law == "fixed" and self.horizon_months is None:
            raise ValueError("a fixed follow-up needs its horizon_months; give it, or use the law `staggered`")
        return self


class EventDefinition(_Model):
    """What a study counted as its skeletal event."""

    components: Annotated[list[Component], Field(min_length=1)]
    detection: Detection
    death: Death
    minimum_gap_days: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Days between two events that count as two."
    )
    survey_weeks: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Weeks between scheduled skeletal surveys."
    )
    note: Text | None = None

    @model_validator(mode="after")
    def _no_component_twice(self) -> "EventDefinition":
        if len(set(self.components)) < len(self.components):
            raise ValueError("a component is listed twice; list each component once")
        return self


class ResponseDefinition(_Model):
    """What a study counted as the response of a bone marker."""

    fall_percent: Annotated[float, Field(ge=0, lt=100, allow_inf_nan=False)] = Field(
        description="Least fall from entry, percent; 0: any fall."
    )
    note: Text | None = None


class Source(_Model):
    """A public text in which numbers were read."""

    id: Name
    citation: Text
    year: Annotated[int, Field(ge=1940, le=2100)] | None = Field(default=None, description="Year of publication.")
    doi: Annotated[str, StringConstraints(pattern=r"^10\.\d{4,9}/\S+$")] | None = None
    pmid: Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")] | Annotated[int, Field(gt=0)] | None = None
    seen_at: list[Text] = []


class Population(_Model):
    """Who the patients were."""

    pretreatment: Pretreatment = "none"
    prior_sre_percent: Percent | None = None
    bone_agent_percent: Percent | None = Field(default=None, description="On a bisphosphonate or denosumab at entry.")
    visceral_percent: Percent | None = Field(default=None, description="With visceral metastases at entry.")
    note: Text | None = None


class Curve(_Model):
    """A published Kaplan-Meier curve that was digitised, or individual times, in the folder `km/` of a study.

    `digitised`: ``km/<endpoint>.<arm>.csv`` (time, survival) and ``km/<endpoint>.<arm>.risk.csv`` (time, n_at_risk).
    `individual`: ``km/<endpoint>.times.csv`` (time, event, arm).
    """

    endpoint: Text
    arm: Name
    kind: Literal["digitised", "individual"] = "digitised"
    time_unit: TimeUnit = "month"
    total_events: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Events of the arm, if printed.")
    use: Use
    source: Name
    where: Text | None = None
    note: str = ""


class Selection(_Model):
    """A named list of studies."""

    meaning: Text
    studies: Annotated[list[Name], Field(min_length=1)]


class Selections(_Model):
    """Named lists of studies: `datasets/selections.yaml`."""

    format: Literal[1]
    selections: dict[Name, Selection]


class StudyFact(_Model):
    """One printed fact of a study's design or population that is not an outcome."""

    fact: Fact
    of: Name | None = Field(default=None, description="What of: a tumour, an agent, a limit, a reason.")
    arm: Name | None = Field(default=None, description="Omit: the whole study.")
    value: Finite | Text
    unit: FactUnit
    low: Finite | None = None
    high: Finite | None = None
    n: Patients | None = None
    seen_at: Text
    note: Text | None = None

    @model_validator(mode="after")
    def _value_fits_unit(self) -> "StudyFact":
        words = self.unit in ("text", "date", "ratio")
        if not words and not isinstance(self.value, float | int):
            raise ValueError(f"the fact {self.fact!r} is in {self.unit} but its value is words; write unit: text")
        numbers = [x for x in (self.low, self.value, self.high) if isinstance(x, float | int)]
        least = -100.0 if self.unit == "percentage_point" else 0.0
        most = 100.0 if self.unit in ("percent", "percentage_point") else math.inf
        for number in numbers:
            if not least <= number <= most:
                raise ValueError(f"{number:g} {self.unit} is impossible for the fact {self.fact!r}; correct it")
        if numbers != sorted(numbers):
            shown = ", ".join(f"{number:g}" for number in numbers)
            raise ValueError(f"low, value and high of the fact {self.fact!r} are not in order ({shown}); correct them")
        return self


class Study(_Model):
    """One study: `datasets/<study_id>/study.yaml`."""

    format: Literal[1]
    id: Name
    title: Text
    registry: Annotated[str, StringConstraints(pattern=r"^NCT\d{8}$")] | None = None
    design: Design
    cancer: StudyCancer
    tumour: Tumour | None = Field(default=None, description="Histology or stage, where all patients have one.")
    setting: Text
    years: Text | None = Field(default=None, description="Years of entry or diagnosis, as printed.")
    patients: Text = Field(description="The patient set; reports that share patients name the same set.")
    population: Population = Population()
    follow_up: FollowUp
    events: dict[str, EventDefinition] = Field(default={}, description="Event definitions by endpoint name.")
    responses: dict[str, ResponseDefinition] = Field(default={}, description="Responses of markers by endpoint name.")
    arms: Annotated[list[Arm], Field(min_length=1)]
    curves: list[Curve] = Field(default=[], description="Curves and individual times in the folder km/.")
    facts: list[StudyFact] = Field(default=[], description="Printed facts of design and population.")
    sources: Annotated[list[Source], Field(min_length=1)]
    notes: list[Text] = []

    @model_validator(mode="after")
    def _names_agree(self) -> "Study":
        arms = [arm.id for arm in self.arms]
        for what, names in (("arm", arms), ("source", [source.id for source in self.sources])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the {what} id {twice[0]!r} is used twice; give each {what} its own id")
        for arm in self.arms:
            for other in arm.overlaps:
                if other not in arms or other == arm.id:
                    others = [name for name in arms if name != arm.id]
                    raise ValueError(
                        f"arm {arm.id!r} overlaps {other!r}, which is not another arm; {did_you_mean(other, others)}"
                    )
        reserved = sorted(set(self.events) & set(ENDPOINTS))
        if reserved:
            raise ValueError(f"the endpoint {reserved[0]!r} needs no event definition; remove it from events")
        if self.design not in ("registry", "cohort") and "all_solid" in (self.cancer, *(a.cancer for a in self.arms)):
            raise ValueError("`all_solid` is for registries and cohorts; use `mixed` and give every arm its mix")
        for where, cancer, tumour in [
            ("the study", self.cancer, self.tumour),
            *((f"arm {a.id!r}", a.cancer or self.cancer, a.tumour) for a in self.arms),
        ]:
            if tumour and tumour not in CANCER_TUMOURS.get(cancer, ()):
                raise ValueError(f"the tumour of {where} is {tumour!r}, but its cancer is {cancer!r}; correct one")
        for fact in self.facts:
            if fact.arm is not None and fact.arm not in arms:
                raise ValueError(
                    f"the fact {fact.fact!r} is of arm {fact.arm!r}, which is no arm; {did_you_mean(fact.arm, arms)}"
                )
            size = None if fact.arm is None else self.arm(fact.arm).n
            if size is not None and fact.n is not None and fact.n > size:
                raise ValueError(
                    f"the fact {fact.fact!r} is of {fact.n} patients of arm {fact.arm!r}, which has {size}; correct one"
                )
        return self

    @property
    def arm_ids(self) -> list[str]:
        """Ids of the arms, in order."""
        return [arm.id for arm in self.arms]

    def arm(self, arm_id: str) -> Arm:
        """Arm called `arm_id`."""
        return next(arm for arm in self.arms if arm.id == arm_id)

    def members(self, arm_id: str) -> list[tuple[str, str | None, float]]:
        """Cancer, regimen and weight of each cell of an arm: one cell of weight 1 for a pure arm."""
        arm = self.arm(arm_id)
        if not arm.mix:
            return [(arm.cancer or self.cancer, arm.regimen, 1.0)]
        return [(member.cancer, member.regimen or arm.regimen, member.weight) for member in arm.mix]

    def arm_cancer(self, arm_id: str) -> str:
        """Cancer of an arm; `mixed` if it holds several."""
        cancers = {cancer for cancer, _, _ in self.members(arm_id)}
        return cancers.pop() if len(cancers) == 1 else "mixed"

    @property
    def patient_count(self) -> int | None:
        """Patients in the arms that share none with another; `None` if an arm's number was not printed."""
        counts = [arm.n for arm in self.arms if not arm.overlaps]
        return None if any(n is None for n in counts) else sum(n for n in counts if n is not None)


class OutcomeRow(_Model):
    """One published number: one row of `outcomes.csv`. An empty cell is `None`, or an empty string for a text."""

    outcome_id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*/[a-z0-9][a-z0-9_]*$")]
    arm: Name
    versus: Name | None
    endpoint: Text
    component: Component | AdverseEvent | None
    statistic: Statistic
    time: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    time_unit: TimeUnit | None
    value: Finite | None
    unit: Unit | None
    low: Finite | None
    high: Finite | None
    level: Annotated[float, Field(gt=0, lt=1)] | None
    estimator: Estimator
    events: Annotated[int, Field(ge=0), AfterValidator(_of_people)] | None
    n: Patients | None
    denominator: Denominator | None
    use: Use
    source: Name
    where: str
    note: str


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas by file name: for editors that complete and check YAML, and for programs that read the tables."""
    models = {"study": Study, "selections": Selections, "outcomes": OutcomeRow}
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {f"{name}.schema.json": {**dialect, **model.model_json_schema()} for name, model in models.items()}


def write_json_schemas(folder: Path | str) -> None:
    """Write :func:`json_schemas` into a folder (`datasets/`)."""
    for name, schema in json_schemas().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / name).write_text(text, encoding="utf-8")
