"""Jobs of a batch share compiled programs only if nothing that is written into them differs; then their draws are those of a fit alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from osteobayes import batch
from osteobayes.fit import Run, Settings, calibrate
from osteobayes.fit.geometry import Geometry
from osteobayes.fit.programs import Programs, structure
from osteobayes.fit.run import build_model
from osteobayes.paths import shipped

TINY = dict(
    chains=2, draws=30, tune=20, block=5, prior_draws=10, starts=1, search_iterations=20, grid=(28.0, 40, 1), processes=1
)  # fmt: skip


def overlay(folder: Path, name: str, change: str) -> Path:
    file = folder / f"{name}.yaml"
    field, _, value = change.partition(": ")
    file.write_text(
        f"format: 1\nparameters:\n  - name: {name}\n    {field}: {value}\n    status: expert\n    rationale: a test\n    sources: []\n"
    )
    return file


@pytest.fixture(scope="module")
def built(two_studies):
    settings = Settings(**TINY)

    def build(file=None, **more):
        model = build_model(two_studies, shipped("priors"), file, replace(settings, **more))
        model.__dict__["prior_only"] = ()  # not found here: that compiles
        return model

    return settings, build


def written(model, settings):
    """What programs have written in, coordinates' constants included."""
    return structure(model, settings), [x.tobytes() for x in Geometry(model).constants]


def test_seeds_weights_and_most_numbers_of_priors_need_no_programs_of_their_own(built, tmp_path):
    settings, build = built
    plain = written(build(), settings)
    assert written(build(), replace(settings, seed=5, draws=999, chains=3)) == plain
    assert written(build(weights=(("lipton2000", 0.5),)), settings) == plain
    assert written(build(overlay(tmp_path, "sre_baseline", "mean: -0.2")), settings) == plain


@pytest.mark.parametrize("name, change", [("sre_between_sd", "sd: 0.05"), ("followup_horizon", "value: 30.0")])
def test_numbers_that_programs_have_written_in_make_another_shape(built, tmp_path, name, change):
    settings, build = built
    assert written(build(overlay(tmp_path, name, change)), settings) != written(build(), settings)


def test_other_studies_and_sampler_settings_make_another_shape(built):
    settings, build = built
    plain = written(build(), settings)
    assert written(build(without=("lipton2000",)), settings) != plain
    assert written(build(), replace(settings, block=10)) != plain
    assert written(build(), replace(settings, target=0.8)) != plain


@pytest.mark.slow
def test_a_job_that_shares_programs_has_the_draws_of_a_fit_alone(two_studies, tmp_path):
    """Seed, weights and prior differ from those of the job before; equal to the last bit, predictions included."""
    changed = overlay(tmp_path, "sre_baseline", "mean: -0.2")
    other = {**TINY, "weights": (("lipton2000", 0.5),)}
    jobs = [
        batch.Job(settings=TINY, data=two_studies),
        batch.Job(seed=3, settings=other, data=two_studies, overlay=changed),
    ]
    table = batch.run_batch(jobs, tmp_path / "batch")
    assert set(table["status"]) == {"finished"}
    alone = calibrate(two_studies, out=tmp_path / "alone", overlay=changed, seed=3, **other)
    shared = Run.load(tmp_path / "batch" / jobs[1].id)
    ours, theirs = shared.blocks.arrays(), alone.blocks.arrays()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    for group in ("posterior", "log_likelihood", "posterior_predictive", "prior"):
        for name, x in shared.tree[group].to_dataset().items():
            np.testing.assert_array_equal(x, alone.tree[group][name])
    assert batch.headline(alone) == batch.headline(shared)


def test_programs_of_another_shape_do_not_reach_a_run_that_is_done():
    programs = Programs()
    mine = programs.kept
    mine["simulate"] = "mine"
    programs._clear()
    programs.kept["simulate"] = "of another shape"
    assert mine["simulate"] == "mine"
