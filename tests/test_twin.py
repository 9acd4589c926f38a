"""The twin: contrasts from printed numbers, the exact posterior, what it refuses."""

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from osteobayes.cycle import shipped_catalogue
from osteobayes.errors import OsteobayesError
from osteobayes.evidence import Evidence
from osteobayes.paths import shipped
from osteobayes.twin import Twin, cloglog_contrast, contrasts


@pytest.fixture(scope="module")
def evidence():
    return Evidence.load(shipped("datasets")).choose("core")


@pytest.fixture(scope="module")
def twin(evidence):
    return Twin.fit(evidence)


def network(*rows):
    table = pd.DataFrame(rows, columns=["study", "treated", "reference", "log_hr", "se"])
    return Twin.from_contrasts(table, pd.DataFrame(), shipped_catalogue())


def test_cloglog_contrast_recovers_the_hazard_ratio_and_its_se():
    rng = np.random.default_rng(1)
    p1, p0 = 1 - np.exp(-0.5 * 0.7), 1 - np.exp(-0.5)
    draws = [
        cloglog_contrast(a, 400, b, 300)
        for a, b in zip(rng.binomial(400, p1, 4000), rng.binomial(300, p0, 4000), strict=True)
    ]
    y, se = np.array(draws).T
    assert y.mean() == pytest.approx(np.log(0.7), abs=0.01)
    assert se.mean() == pytest.approx(y.std(), rel=0.03)


def test_cloglog_contrast_at_the_edges():
    for events in (0, 50):
        y, se = cloglog_contrast(events, 50, 20, 50)
        assert np.isfinite(y) and se > 0.3
    with pytest.raises(OsteobayesError, match="51 events among 50"):
        cloglog_contrast(51, 50, 20, 50)


def test_posterior_agrees_with_quadrature_for_two_studies():
    y, se = np.array([-0.5, -0.1]), np.array([0.1, 0.15])
    found = network(("a", ("denosumab",), (), y[0], se[0]), ("b", ("denosumab",), (), y[1], se[1]))

    def joint(d, tau):
        return stats.norm.pdf(y, d, np.hypot(se, tau)).prod() * stats.norm.pdf(d) * stats.halfnorm.pdf(tau, scale=0.15)

    moments = [
        integrate.dblquad(lambda d, tau, k=k: d**k * joint(d, tau), 0, 0.9, -2, 1, epsabs=1e-8)[0] for k in range(3)
    ]
    mean = moments[1] / moments[0]
    sd = np.sqrt(moments[2] / moments[0] - mean**2)
    assert found.predict_contrast("denosumab") == pytest.approx((mean, sd), abs=2e-4)


def test_a_contrast_through_a_common_comparator():
    found = network(("a", ("zoledronic acid",), (), -0.4, 0.1), ("b", ("denosumab",), ("zoledronic acid",), -0.2, 0.1))
    mean, sd = found.predict_contrast("denosumab", "placebo")
    assert mean == pytest.approx(-0.6, abs=0.06) and sd > found.predict_contrast("denosumab", "zoledronic acid")[1]
    backwards = found.predict_contrast("zoledronic acid", "denosumab")
    assert backwards[0] == pytest.approx(-found.predict_contrast("denosumab", "zoledronic acid")[0])
    assert found.predict_contrast("denosumab", new_study=True)[1] > sd
    row = found.effects.set_index("agent").loc["denosumab"]
    assert row["low"] < row["log_hr"] < row["high"]
    assert row["high"] - row["low"] == pytest.approx(3.29 * row["sd"], rel=0.05)


def test_unconnected_agents_are_refused():
    found = network(("a", ("enzalutamide",), (), -0.4, 0.1), ("b", ("denosumab",), ("zoledronic acid",), -0.2, 0.1))
    with pytest.raises(OsteobayesError, match="denosumab and placebo are not connected"):
        found.predict_contrast("denosumab")
    with pytest.raises(OsteobayesError, match="no fitted contrast of skeletal events holds 'galunisertib'"):
        found.predict_contrast("galunisertib")
    assert found.effects.set_index("agent")["connected"].to_dict() == {
        "denosumab": False, "enzalutamide": True, "zoledronic acid": False,
    }  # fmt: skip
    assert "not connected to placebo" in str(found)


def test_the_shipped_network(twin):
    effects = twin.effects.set_index("agent")
    assert {"denosumab", "zoledronic acid", "pamidronate", "enzalutamide", "abiraterone"} <= set(effects.index)
    assert effects["connected"].all() and (effects["log_hr"] < 0).all()
    mean, sd = twin.predict_contrast("denosumab 120 mg q4w", "zoledronic acid")
    assert np.log(0.75) < mean < np.log(0.92) and 0.03 < sd < 0.15
    assert twin.weights.sum() == pytest.approx(1.0)
    # everything fitted that is not used is named, with a reason
    used = set(", ".join(twin.contrasts["source"]).split(", "))
    left = set(", ".join(twin.left_out["outcomes"]).split(", "))
    assert not used & left and twin.left_out["reason"].str.len().min() > 10


def test_a_background_that_both_arms_share_cancels(evidence, twin):
    row = twin.contrasts.set_index("study").loc["couaa301"]
    assert len({regimen for _, regimen, _ in evidence.studies["couaa301"].members("placebo")}) > 1
    assert (row["treated"], row["reference"]) == (("abiraterone",), ())


def test_pooling_by_class(evidence):
    found = Twin.fit(evidence, by="class")
    assert "bisphosphonate" in found.names and "zoledronic acid" not in found.names
    assert found.predict_contrast("denosumab", "zoledronic acid") == found.predict_contrast("denosumab", "pamidronate")


def test_a_shared_control_is_refused(evidence):
    frame = evidence.outcomes.copy()
    extra = frame[frame["outcome_id"] == "affirm/sre_hr"].assign(outcome_id="affirm/sre_hr_2")
    doubled = Evidence(evidence.studies, pd.concat([frame, extra], ignore_index=True))
    with pytest.raises(
        OsteobayesError, match="cannot use affirm: several of its contrasts share the arm 'enzalutamide'"
    ):
        Twin.fit(doubled)
    third = frame[frame["outcome_id"] == "stopeck2010_136/crude_za"].assign(outcome_id="stopeck2010_136/crude_x")
    tripled = Evidence(evidence.studies, pd.concat([frame, third], ignore_index=True))
    with pytest.raises(OsteobayesError, match="crude totals of 3 arms"):
        contrasts(tripled, shipped_catalogue())


def test_no_network(evidence):
    with pytest.raises(OsteobayesError, match="no network"):
        Twin.fit(evidence.select(study="jensen2011"))
