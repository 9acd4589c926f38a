"""Samplers beside that of `calibrate`, on two breast studies with a coarse grid: each gives draws of the model, judged."""

import numpy as np
import pytest

from osteobayes.cycle import Grid
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.evidence import Evidence
from osteobayes.fit import fit
from osteobayes.fit.samplers import SAMPLERS, Task
from osteobayes.model import Model
from osteobayes.paths import shipped
from osteobayes.priors import PriorSet


@pytest.fixture(scope="module")
def small():
    evidence = Evidence.load(shipped("datasets")).select(study=["lipton2000", "stopeck2010_136"])
    return Model.build(evidence, PriorSet.load(), Grid(14.0, 80, 2))


def test_an_unknown_back_end_or_sampler_is_refused_with_what_there_is(small):
    with pytest.raises(OsteobayesError, match="no back end is called 'stan'"):
        fit(small, backend="stan")
    with pytest.raises(OsteobayesError, match="pymc has no sampler 'svi'; it has calibrate, nuts, nutpie"):
        fit(small, backend="pymc", sampler="svi")
    with pytest.raises(RunError, match="at least 1"):
        fit(small, draws=0)


def test_importance_ratios_of_the_posterior_itself_are_even(small, monkeypatch):
    """Where the approximation is the density up to a constant, Pareto k is small and every draw counts."""
    task = Task(small, 1, 1, 1, 0, 0.9, print)

    class Known:
        def values_and_grads(self, z, *_):
            return 0.5 * (z**2).sum(axis=1), z

    monkeypatch.setitem(task.__dict__, "sampler", Known())
    monkeypatch.setitem(task.__dict__, "data", {})
    z = np.random.default_rng(3).normal(size=(400, 6))
    exact = task.weighed(z, -0.5 * (z**2).sum(axis=1) + 3.0)
    assert exact["effective_draws"] == pytest.approx(400, rel=1e-6)
    wide = task.weighed(z / 3.0, -0.5 * (z**2).sum(axis=1))  # three times too narrow
    assert wide["pareto_k"] > 0.7 and wide["effective_draws"] < 100


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "sampler"), SAMPLERS)
def test_every_sampler_gives_draws_of_the_model(small, backend, sampler):
    said = []
    found = fit(small, backend, sampler, draws=12, tune=12, chains=2, seed=1, report=said.append)
    draws = found.tree["posterior"].to_dataset()
    assert set(small.sampled) <= set(draws.data_vars)
    for name, site in small.sampled.items():
        assert draws[name].shape == (2, 12, *site.shape)
        assert np.isfinite(draws[name]).all(), name
    assert len(np.unique(draws["frailty"])) > 8
    assert not found.diagnostics["usable"] or found.diagnostics.get("pareto_k", 1.0) < 0.7
    assert said and "may" in found.diagnostics["sentence"]
