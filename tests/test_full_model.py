"""The full model against the core: where no agent of a module is given they hardly differ in skeletal events."""

import jax.numpy as jnp
import numpy as np
import pytest

from osteobayes.cycle import Cell, Regimen
from osteobayes.errors import RunError
from osteobayes.fit.run import Settings, build_model
from osteobayes.paths import shipped
from osteobayes.precision import jit
from osteobayes.predict import POPULATIONS, Scenario, _question, _simulate_chunk
from osteobayes.solve import courses

REGIMENS = ("placebo", "denosumab", "zoledronic acid", "pamidronate", "ibandronate", "clodronate", "docetaxel")


def probabilities(variant):
    """P(SRE by 24 months) at the centre of the priors: antiresorptives, backbones, radium."""
    model = build_model(shipped("datasets"), shipped("priors"), None, Settings(select="core", model=variant))
    scenarios = [Scenario(Cell(c, Regimen.parse(r)), POPULATIONS[c]) for c in POPULATIONS for r in REGIMENS]
    scenarios += [
        Scenario(Cell("prostate", Regimen.parse(r)), POPULATIONS["prostate"]) for r in ("radium-223", "enzalutamide")
    ]
    values = model.values(model.priors.centre(model.coords, model.data["hyper"]), model.data)
    draws = {n: jnp.asarray(values[n])[None] for n in values if model.priors[n].sampled}
    found, _ = jit(lambda fixed, draws: _simulate_chunk(model, fixed, draws))(_question(model, scenarios, 24.0), draws)
    return np.asarray(found["p_sre"])[0]


@pytest.mark.slow
def test_core_and_full_differ_by_less_than_two_percent_points_in_events():
    core, full = probabilities("core"), probabilities("full")
    assert np.isfinite(core).all() and (np.abs(full - core) < 0.02).all() and (full != core).any()


def test_the_full_model_lets_immunity_act_under_an_antiresorptive():
    """In the core denosumab leaves systemic growth alone; in the full model less TGF-beta relieves suppression."""
    core, full = (
        courses(["placebo", "denosumab"], "lung", full=f)["growth"].isel(draw=0, day=-1) for f in (False, True)
    )
    assert float(core[1] - core[0]) == 0
    assert -0.5 * float(full[0]) < float(full[1] - full[0]) < 0
    assert abs(float(full[0] - core[0])) < 0.5 * float(core[0])


def test_a_third_kind_of_model_is_refused():
    with pytest.raises(RunError, match="core or full"):
        Settings(model="half")
