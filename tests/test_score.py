"""Proper scores against closed forms, and which check rows can be predicted."""

import numpy as np
import pytest
from scipy import stats

from osteobayes import score
from osteobayes.errors import OsteobayesError
from osteobayes.evidence import Evidence
from osteobayes.paths import shipped
from osteobayes.priors import PriorSet


def test_crps_of_draws_is_its_definition():
    x, y = np.array([0.3, -1.0, 2.0]), 0.7
    definition = np.abs(x - y).mean() - 0.5 * np.abs(x[:, None] - x).mean()
    assert score.crps_sample(x, y) == pytest.approx(definition)
    both = score.crps_sample(np.stack([x, x + 1], axis=1), np.array([y, y + 1]))
    assert both == pytest.approx([definition, definition])
    assert score.crps_sample(np.array([2.0]), 5.0) == 3.0


def test_crps_of_normal_draws_agrees_with_the_closed_form():
    x = stats.norm.ppf((np.arange(20000) + 0.5) / 20000, 1.0, 2.0)
    for y in (-3.0, 1.0, 4.0):
        assert score.crps_sample(x, y) == pytest.approx(score.crps_normal(1.0, 2.0, y), abs=1e-3)


@pytest.mark.parametrize("draws", [np.array([]), np.array([0.0, np.inf]), np.array([np.nan])])
def test_crps_refuses_what_it_cannot_score(draws):
    with pytest.raises(OsteobayesError, match="finite"):
        score.crps_sample(draws, 0.0)


def test_scores_are_proper():
    rng = np.random.default_rng(0)
    y = rng.normal(0.0, 1.0, 4000)
    sds = (0.5, 1.0, 2.0)
    assert np.argmin([score.crps_normal(0.0, s, y).mean() for s in sds]) == 1
    assert np.argmax([score.log_score_normal(0.0, s, y).mean() for s in sds]) == 1
    assert (
        np.argmin([score.interval_score(np.full(4000, -1.645 * s), np.full(4000, 1.645 * s), y).mean() for s in sds])
        == 1
    )


def test_interval_score_and_coverage():
    assert score.interval_score(0.0, 1.0, 0.5) == 1.0
    assert score.interval_score(0.0, 1.0, 1.5, level=0.9) == pytest.approx(1.0 + 20 * 0.5)
    with pytest.raises(OsteobayesError, match="level"):
        score.interval_score(0.0, 1.0, 0.5, level=90)
    with pytest.raises(OsteobayesError, match="upper bound"):
        score.interval_score(1.0, 0.0, 0.5)
    assert score.coverage(np.zeros(4), np.ones(4), np.array([0.0, 0.5, 1.0, 1.1])) == 0.75
    assert np.isnan(score.coverage(np.zeros(0), np.zeros(0), np.zeros(0)))
    with pytest.raises(OsteobayesError, match="positive"):
        score.log_score_normal(0.0, 0.0, 1.0)


def test_score_of_draws():
    found = score.score_draws(np.linspace(0.0, 1.0, 101), 0.99)
    assert found["median"] == 0.5 and not found["inside"]
    assert found["interval_score"] == pytest.approx(0.9 + 20 * 0.04)


@pytest.fixture(scope="module")
def chosen():
    evidence = Evidence.load(shipped("datasets")).choose("core")
    coords = {
        "study_sre": ("stopeck2010_136", "affirm", "henry2011_244"), "study_os": ("affirm",), "study_os_unseen": ("stopeck2010_136",),
        "study_pfs": (), "study_registry": (), "onset": (),
    }  # fmt: skip
    kept, left = score.scorable(evidence, PriorSet.load(), coords)
    return evidence, kept.outcomes.set_index("outcome_id"), dict(left)


def test_every_check_row_is_kept_or_left_out_with_a_reason(chosen):
    evidence, kept, left = chosen
    was = evidence.outcomes[evidence.outcomes["use"] == "check"]["outcome_id"]
    now = kept.index[kept["use"] == "check"]
    assert set(was) == set(now) | set(left) and not set(now) & set(left)
    assert (kept.loc[list(left), "use"] == "no").all() and all(left.values())
    assert (evidence.outcomes["use"] == "fit").sum() == (kept["use"] == "fit").sum()


def test_reasons(chosen):
    _, kept, left = chosen
    assert kept.loc["stopeck2010_136/hr", "use"] == "check"
    assert left["stopeck2010_136/hr_radiation"] == "one component of the endpoint is not predicted"
    assert "was fitted, so its baseline is unknown" in left["couaa301/sre_median_abiraterone"]
    assert "pain" in left["affirm/pain_progression_hr"]


def test_what_baseline_an_endpoint_needs():
    coords = {
        "study_registry": ("r BMFS",),
        "study_sre": ("a",),
        "study_os": (),
        "study_os_unseen": ("a",),
        "study_pfs": ("b",),
        "onset": ("breast",),
    }
    assert score._unfitted("a", "OS", "trial", "breast", coords) == ""
    assert score._unfitted("b", "bone_progression", "trial", "breast", coords) == ""
    assert "no PFS number" in score._unfitted("a", "PFS", "trial", "breast", coords)
    assert score._unfitted("c", "BMFS", "trial", "breast", coords) == ""
    assert score._unfitted("r", "BMFS", "registry", "breast", coords) == ""
    assert "registry's BMFS" in score._unfitted("c", "BMFS", "registry", "breast", coords)
    assert "in lung" in score._unfitted("c", "bone_metastasis", "trial", "lung", coords)


def test_a_share_without_a_count_gets_one(chosen):
    _, kept, _ = chosen
    row = kept.loc["affirm/crude_placebo"]
    assert (row["use"], int(row["events"]), int(row["n"])) == ("check", round(0.40 * 399), 399)


def test_effects_of_a_row_are_named():
    info = {"study": "a", "kind": "SRE", "arm": "x", "versus": ""}
    assert score._effects(info, {"effect_study": ["b/x/SRE"]}) == "fitted"
    assert (
        score._effects(info, {"effect_study": ["a/x/SRE"], "dropout_study": ["a"]})
        == "drawn: dropout_study, effect_study"
    )
