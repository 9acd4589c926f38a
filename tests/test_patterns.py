"""Which published numbers make a comparison of treatments, in which direction, and how it is read beside draws."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from osteobayes import patterns
from osteobayes.evidence import Evidence
from osteobayes.model import Model
from osteobayes.paths import shipped
from osteobayes.priors import PriorSet


@pytest.fixture(scope="module")
def model():
    return Model.build(Evidence.load(shipped("datasets")), PriorSet.load())


@pytest.fixture(scope="module")
def found(model):
    return {(c.study, c.endpoint, c.family, c.cancer): c for c in patterns.comparisons(model)}


def test_the_named_comparisons_are_all_in_the_shipped_evidence(model):
    ranked = patterns.comparisons(model)
    assert {(c.agent, c.versus) for c in ranked} >= set(patterns.NAMED)
    named = [(c.agent, c.versus) in patterns.NAMED for c in ranked]
    assert named == sorted(named, reverse=True)


def test_the_agent_is_what_the_reference_arm_lacks(found):
    c = found["couaa301", "SRE", "hazard_ratio", "prostate"]
    assert (c.agent, c.versus, c.reference) == ("abiraterone", "", "placebo")  # zoledronic acid is in both arms
    c = found["rosen2001_p010", "SRE", "crude", "mixed"]
    assert {c.agent, c.versus} == {"pamidronate", "zoledronic acid"}
    c = found["stopeck2010_136", "SRE", "crude", "breast"]
    assert (c.agent, c.versus) == ("denosumab", "zoledronic acid")


def test_doses_of_one_agent_are_no_comparison_of_treatments(found):
    assert not [c for c in found if c[0] == "optimize2_2017"]
    assert not [c for c in found if c[0] == "formenti2018"]


def test_ratios_of_shares_are_those_of_the_printed_counts(model, found):
    c = found["saad2002_p039", "SRE", "crude", "prostate"]
    events = {
        model.packed.table.loc[o]["arm"]: (x, n)
        for o, x, n in zip(
            model.packed.outcomes["crude"], model.packed.observed["crude"], model.packed.column("crude", "n"), strict=True
        )
        if o.startswith("saad2002_p039/")
    }  # fmt: skip
    (a, n), (b, m) = events[c.treated], events[c.reference]
    observed = {f: np.asarray(x) for f, x in model.packed.observed.items()}
    assert patterns._log_ratio(model.packed, c, observed) == pytest.approx(np.log((a / n) / (b / m)))
    draws = {"crude": np.stack([observed["crude"], 2 * observed["crude"]])}
    assert patterns._log_ratio(model.packed, c, draws).shape == (2,)


def test_a_row_says_what_the_prior_imposes_and_what_lies_outside(found):
    c = found["saad2002_p039", "SRE", "crude", "prostate"]
    rng = np.random.default_rng(0)
    groups = {"posterior": -0.3, "new": -0.3, "prior": -0.5}
    centre = {g: m + 0.05 * rng.standard_normal(4000) for g, m in groups.items()}
    drawn = {"posterior": centre["posterior"], "new": -0.3 + 0.5 * rng.standard_normal(4000)}
    row = patterns._row(c, -0.5, centre, drawn)
    assert not row["inside"] and row["new_inside"] and row["imposed"]
    assert row["posterior"] == pytest.approx(np.exp(-0.3), rel=0.01)
    assert row["posterior_high"] / row["posterior_low"] == pytest.approx(np.exp(2 * 1.645 * 0.05), rel=0.01)
    against = patterns._row(c, 0.5, centre, drawn)
    assert against["prior_direction"] == 0.0 and not against["imposed"]


def test_sentences_put_sharpness_beside_coverage_and_name_every_miss():
    fitted = pd.DataFrame(
        {
            "outcome": ["a/x", "a/y"], "observed": [0.4, 0.9], "low": [0.3, 0.2], "high": [0.5, 0.6], "inside": [True, False],
            "new_inside": [True, True], "of_prior": [0.2, 0.4], "of_printed": [1.0, 2.0],
        }
    )  # fmt: skip
    checks = pd.DataFrame(
        {"outcome": ["b/median"], "observed": [np.log(0.5)], "low": [np.log(1.0)], "high": [np.log(2.0)], "inside": [False],
         "same_patients": [False], "scale": ["log years"]}
    )  # fmt: skip
    table = pd.DataFrame(
        {"imposed": [True], "agent": ["abiraterone"], "versus": [""], "study": ["couaa301"], "endpoint": ["PFS"], "cancer": ["prostate"], "prior_direction": [0.99]}
    )  # fmt: skip
    text = "\n".join(patterns.Patterns(table, fitted, checks, pd.DataFrame()).sentences)
    assert "50% of 2" in text and "0.30 of the prior's" in text
    assert "outside (fitted): a/y: published 0.9, predicted 0.2 to 0.6" in text
    assert "outside (not fitted): b/median: published 6, predicted 12 to 24 months" in text
    assert "the prior imposes abiraterone against its backbone on PFS in prostate (couaa301): probability 0.99" in text


def test_medians_that_were_not_reached_are_no_numbers(model):
    """The same evidence, had no median been reached: no ratio of medians is left, everything else is."""
    blocks = {k: r._replace(reached=np.zeros_like(r.reached)) for k, r in model.packed.data["median"].items()}
    unreached = replace(model, packed=replace(model.packed, data=dict(model.packed.data) | {"median": blocks}))
    before, after = (patterns.comparisons(m) for m in (model, unreached))
    assert [c for c in before if c.family == "median"]
    assert after == [c for c in before if c.family != "median"]


def test_without_comparisons_or_checks_the_sentences_say_so():
    fitted = pd.DataFrame(
        {"outcome": ["a/x"], "inside": [True], "new_inside": [True], "of_prior": [0.2], "of_printed": [1.0]}
    )
    found = patterns.Patterns(pd.DataFrame(), fitted, pd.DataFrame(), pd.DataFrame(), ("not scored: no row",))
    assert found.sentences[-1] == "not scored: no row" and len(found.sentences) == 3
