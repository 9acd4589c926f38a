"""Fits side by side in one program: what each gets is what it would get alone, and one that fails stops no other."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteobayes.cycle import Grid
from osteobayes.errors import Interrupted, RunError
from osteobayes.evidence import Evidence
from osteobayes.fit.hmc import Sampler
from osteobayes.fit.lanes import MOST, Lanes
from osteobayes.fit.side_by_side import OWN
from osteobayes.model import Model
from osteobayes.model.redraw import redrawn
from osteobayes.paths import shipped
from osteobayes.precision import jit
from osteobayes.priors import PriorSet

WIDTH = 6


@pytest.fixture(scope="module")
def model():
    evidence = Evidence.load(shipped("datasets")).select(study=["stopeck2010_136", "lipton2000"])
    return Model.build(evidence, PriorSet.load(), Grid(28.0, 40, 2))


@pytest.fixture(scope="module")
def sampler(model):
    return Sampler(model, block=3)


@pytest.fixture(scope="module")
def data(model):
    """Three datasets on the same designs."""
    given = model.sampling_data
    values = model.values(model.draw_prior(jax.random.key(3), given), given)
    draw = jit(lambda key: {k: redrawn(model, key, values, given)[k] for k in ("observed", "rows")})
    return [given | draw(jax.random.key(i)) for i in range(3)]


@pytest.fixture(scope="module")
def lanes(sampler, data):
    return Lanes(sampler, data, WIDTH)


def points(sampler, number, seed=0):
    return 0.3 * np.random.default_rng(seed).normal(size=(number, sampler.geometry.size))


def work(sampler, data, fit, chains=2):
    """Gradients at some points, then one block of some chains."""
    where = data | {"geometry": sampler.geometry.empty()}
    w = points(sampler, chains, fit + 10)

    def run(mine):
        found = mine.values_and_grads(points(sampler, 4, fit), data)
        keys = [jax.random.PRNGKey(7 * fit + c) for c in range(chains)]
        states = [mine.first_state(w[c], where, np.eye(w.shape[1]), keys[c], 0.01) for c in range(chains)]
        if hasattr(mine, "chains"):
            return found, mine.chains(states, where["geometry"], 0.1)
        return found, [mine.run_block(s, where, 0.1) for s in states]

    return run


def test_gradients_and_draws_are_those_of_a_fit_alone(sampler, data, lanes):
    """Six lanes a call and twelve points: two calls, filled; draws of three short trajectories agree to rounding."""
    together = lanes.run([work(sampler, d, i) for i, d in enumerate(data)])
    assert {("gradients", WIDTH, WIDTH), ("block", WIDTH, WIDTH)} <= {call[:3] for call in lanes.calls}
    assert all(0.0 < call.useful <= 1.0 and call.seconds > 0.0 for call in lanes.calls)
    for i, d in enumerate(data):
        (values, slopes), blocks = together[i]
        (expected, gradients), alone = work(sampler, d, i)(sampler)
        np.testing.assert_allclose(values, expected, rtol=1e-10)
        np.testing.assert_allclose(slopes, gradients, rtol=1e-8, atol=1e-9 * np.abs(gradients).max())
        for (state, z, stats), (was, draws, said) in zip(blocks, alone, strict=True):
            np.testing.assert_allclose(z, draws, rtol=1e-7, atol=1e-8)
            np.testing.assert_array_equal(stats["n_steps"], said["n_steps"])
            assert jax.tree.structure(state) == jax.tree.structure(was)
    values = [np.asarray(fit[0][0]) for fit in together]
    assert not np.allclose(values[0], values[1])  # each has its own data


def test_a_fit_gets_the_same_in_any_company_to_the_last_bit(sampler, data, lanes):
    whole = lanes.run([work(sampler, d, i) for i, d in enumerate(data)])
    other = lanes.run([work(sampler, data[0], 0), work(sampler, data[1], 1, chains=3)])
    for a, b in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(other[0]), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_fit_that_fails_stops_no_other_and_its_error_is_returned(sampler, data, lanes):
    def fails(mine):
        mine.values_and_grads(points(sampler, 2), data[1])
        raise RunError("no start")

    found = lanes.run([work(sampler, data[0], 0), fails])
    assert isinstance(found[1], RunError) and str(found[1]) == "no start"
    assert not isinstance(found[0], Exception)


def test_data_of_another_shape_are_refused(sampler, data):
    wrong = data[1] | {"observed": {k: jnp.concatenate([v, v]) for k, v in data[1]["observed"].items()}}
    with pytest.raises(RunError, match="fit 1 has data of another shape than fit 0"):
        Lanes(sampler, [data[0], wrong], WIDTH)


def test_programs_that_serve_other_fits_refuse_another_design(sampler, data):
    lanes = Lanes(sampler, data[:1], WIDTH, own=OWN, places=3)
    lanes.load(data)
    assert max(np.shape(x)[0] for x, mine in zip(lanes._table, lanes._own, strict=True) if mine) == 3
    key = next(k for k, v in data[1].items() if k not in OWN and jax.tree.leaves(v))
    with pytest.raises(RunError, match="fits side by side have other designs"):
        lanes.load([data[0], data[1] | {key: jax.tree.map(lambda x: x + 1, data[1][key])}])


def test_an_interruption_ends_all_fits(sampler, data, lanes, monkeypatch):
    def interrupted(program, requests):
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(lanes, "_compute", interrupted)
    with pytest.raises(Interrupted, match="SIGTERM"):
        lanes.run([work(sampler, d, i) for i, d in enumerate(data)])


@pytest.mark.slow
def test_as_many_lanes_as_memory_holds(sampler, data, monkeypatch):
    """A lane of two studies needs between a tenth of a MiB and 100 MiB; with less than one lane's memory there is a sentence."""
    monkeypatch.setattr(sys.modules[Lanes.__module__], "free_bytes", lambda device: 2 * 2.0**30)
    many = Lanes(sampler, data, None).width
    assert 10 <= many <= MOST
    monkeypatch.setattr(sys.modules[Lanes.__module__], "free_bytes", lambda device: 1.0)
    with pytest.raises(RunError, match=r"a lane needs .* GiB"):
        Lanes(sampler, data, None)
