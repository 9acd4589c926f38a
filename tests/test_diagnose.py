"""Whether draws may be used, what the evidence taught, and draws that came from elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from osteobayes.errors import RunError
from osteobayes.fit import Posterior
from osteobayes.fit.diagnose import Convergence, convergence, energy_fraction, learned, verdict
from osteobayes.predict import predict

RNG = np.random.default_rng(20261126)


def test_independent_draws_converge_and_shifted_chains_do_not():
    draws = RNG.normal(size=(4, 400, 3))
    found = convergence(draws)
    assert (found.rhat < 1.01).all() and (found.bulk > 1000).all() and (found.tail > 800).all()
    usable, sentence = verdict(["a", "b", "c"], found, 1600)
    assert usable and sentence.startswith("The run may be used: R-hat at most 1.00")
    draws[0, :, 1] += 1.0
    usable, sentence = verdict(["a", "b", "c"], convergence(draws), 1600)
    assert not usable and "R-hat of b is 1." in sentence and "(limit 1.01)" in sentence


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"divergences": 2}, "2 divergences in 1600 draws (limit 0.1%)"),
        ({"failures": 2}, "2 of 1600 draws have cells that could not be solved"),
        ({"more": ["chains sit in different modes"]}, "chains sit in different modes"),
    ],
)
def test_each_reason_is_in_the_sentence(more, words):
    good = Convergence(np.full(2, 1.001), np.full(2, 900.0), np.full(2, 900.0))
    assert verdict(["a", "b"], good, 1600)[0]
    usable, sentence = verdict(["a", "b"], good, 1600, **more)
    assert not usable and words in sentence


def test_too_few_draws_and_a_scalar_that_stands_still_are_not_usable():
    few = convergence(RNG.normal(size=(4, 5, 2)))
    assert np.isnan(few.rhat).all() and not verdict(["a", "b"], few, 20)[0]
    draws = RNG.normal(size=(4, 400, 2))
    draws[..., 1] = 1.0
    usable, sentence = verdict(["a", "b"], convergence(draws), 1600)
    assert not usable and "b does not move" in sentence


def test_energy_fraction():
    fresh = energy_fraction(RNG.normal(size=(2, 500)))
    slow = energy_fraction(np.cumsum(RNG.normal(size=(2, 500)), axis=1))
    assert (fresh > 1.5).all() and (slow < 0.3).all()


def test_what_was_learned():
    prior = {"rate": np.exp(RNG.normal(0.0, 1.0, (4000, 2))), "effect": RNG.normal(0.0, 1.0, 4000)}
    posterior = {
        "rate": np.exp(RNG.normal([0.0, 2.0], [1.0, 0.1], (4000, 2))),
        "effect": RNG.normal(0.0, 0.5, 4000),
    }
    table = learned(posterior, prior, {"rate": [["breast", "lung"]], "effect": []}).set_index(["parameter", "level"])
    assert table.loc[("rate", "breast"), "contraction"] == pytest.approx(0.0, abs=0.06)
    assert table.loc[("rate", "lung"), "contraction"] == pytest.approx(0.9, abs=0.01)
    assert table.loc[("rate", "lung"), "conflict"] == pytest.approx(2.0 / 1.645, abs=0.06)
    assert table.loc[("effect", ""), "contraction"] == pytest.approx(0.5, abs=0.04)


def _tree(model, draws=12):
    """Draws of the sampled sites from their priors, as a sampler would give them back."""
    keys = jax.random.split(jax.random.key(5), 2 * draws)
    sites = jax.vmap(lambda k: model.draw_prior(k, model.data))(keys)
    shaped = {
        n: (("chain", "draw", *s.dims), np.asarray(sites[n]).reshape(2, draws, *s.shape))
        for n, s in model.sampled.items()
    }
    return xr.DataTree.from_dict({"posterior": xr.Dataset(shaped), "sample_stats": xr.Dataset()})


def test_draws_from_elsewhere_are_completed_and_predicted_from(tiny_model):
    tree = _tree(tiny_model)
    posterior = Posterior.of(tiny_model, tree)
    completed = posterior.tree["posterior"].to_dataset()
    assert set(tiny_model.prior_only) & set(completed.data_vars)
    one = {n: jnp.asarray(tree["posterior"][n].to_numpy()[1, 3]) for n in tiny_model.sampled}
    given = one | {n: jnp.asarray(completed[n].to_numpy()[1, 3]) for n in tiny_model.prior_only if n in completed}
    values = tiny_model.values(given, tiny_model.data)
    for name in ("net_growth", "resorption_elasticity", "sre_study"):
        np.testing.assert_allclose(completed[name].to_numpy()[1, 3], values[name], rtol=1e-10)
    assert not posterior.diagnostics["usable"] and "R-hat" in str(posterior)
    with pytest.raises(RunError, match="anyway"):
        predict(posterior, "denosumab", "breast", "stopeck2010_136")
    found = predict(posterior, "denosumab", "breast", "stopeck2010_136", draws=12, anyway=True)
    row = found.table.iloc[0]
    assert row["p_sre_low"] < row["p_sre"] < row["p_sre_high"] and row["grade"] in (
        "trial-calibrated",
        "partly",
        "prior-only",
    )


def test_added_variables_failed_solves_and_a_prior_of_ones_own_count(tiny_model):
    tree = _tree(tiny_model)
    given = tree["posterior"].to_dataset()
    given["slope"] = (("chain", "draw"), np.repeat([[0.0], [9.0]], 12, axis=1))
    given["solver_failures"] = (("chain", "draw"), np.eye(2, 12))
    own = tree["posterior"].to_dataset()
    own["frailty"] = own["frailty"] + 100.0
    found = Posterior.of(tiny_model, xr.DataTree.from_dict({"posterior": given, "prior": own}))
    assert "R-hat of slope is inf" in str(found) and "2 of 24 draws have cells" in str(found)
    prior = found.tree["prior"].to_dataset()
    assert (prior["frailty"] > 100.0).all() and "net_growth" in prior


def test_draws_that_are_not_of_the_model_are_refused(tiny_model):
    tree = _tree(tiny_model)
    with pytest.raises(RunError, match="no group `posterior`"):
        Posterior.of(tiny_model, xr.DataTree.from_dict({"prior": xr.Dataset()}))
    with pytest.raises(RunError, match="lacks `frailty`"):
        Posterior.of(
            tiny_model, xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset().drop_vars("frailty")})
        )
    wrong = tree["posterior"].to_dataset()
    wrong["frailty"] = (("chain", "draw", "more"), np.ones((2, 12, 3)))
    with pytest.raises(RunError, match="another evidence"):
        Posterior.of(tiny_model, xr.DataTree.from_dict({"posterior": wrong}))
