"""The joint density and its NumPyro emission, on the breast studies with a coarse grid (session-scoped)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from osteobayes import solve
from osteobayes.cycle import Grid
from osteobayes.errors import OsteobayesError
from osteobayes.evidence import Evidence
from osteobayes.evidence.pack import delayed
from osteobayes.evidence.rows import Arms
from osteobayes.model import Model, curves
from osteobayes.model import likelihood as likelihood_of
from osteobayes.model.transform import constrain, unconstrain
from osteobayes.observe.hazards import CellHazards
from osteobayes.paths import shipped
from osteobayes.precision import jit
from osteobayes.priors import PriorSet
from osteobayes.schema import COMPONENTS


@pytest.fixture(scope="module")
def draws(tiny_model):
    return [tiny_model.draw_prior(jax.random.key(i), tiny_model.data) for i in range(3)]


def test_pointwise_terms_and_priors_sum_to_the_joint_density(tiny_model, draws):
    data = tiny_model.data
    density = jit(lambda s: tiny_model.log_density(s, data))
    for sites in draws:
        likelihood = sum(float(np.sum(x)) for x in tiny_model.compiled_log_likelihood(sites, data).values())
        prior = sum(float(x) for x in tiny_model.priors.log_density(sites, data["hyper"], tiny_model.coords).values())
        assert float(density(sites)) == pytest.approx(likelihood + prior, rel=1e-10)


def test_a_failed_solve_is_a_count_and_a_sentence(tiny_model, draws):
    """An infinitely potent bisphosphonate; that it has no density, and a finite gradient, is in `test_emission`."""
    data = tiny_model.sampling_data
    bad = draws[0] | {"zoledronic_acid_ed": jnp.asarray(np.asarray(1e-200))}

    @jit
    def solved(sites):
        values = tiny_model.values(sites, data)
        return tiny_model.expected(values, data)[1], tiny_model.trajectories(values, data["cells"])

    failed, path = solved(bad)
    cells = tiny_model.packed.cells
    given = [c for c in cells if "zoledronic acid" in str(c) or "bisphosphonate" in c.pretreatment]
    assert 0 < int(failed) <= len(cells) and given
    sentences = solve.failures(path, cells, tiny_model.grid)
    assert len(sentences) == int(failed)
    assert all("by day" in s and "try a smaller step" in s for s in sentences)


def test_transforms_are_inverse(tiny_model, draws):
    sampled = {n: draws[0][n] for n in tiny_model.sampled}
    back = constrain(tiny_model.sampled, unconstrain(tiny_model.sampled, sampled))
    for name, x in sampled.items():
        np.testing.assert_allclose(back[name], x, rtol=1e-12)


def test_prior_only_sites_have_an_exactly_zero_derivative(tiny_model, draws):
    data = tiny_model.data
    assert {"alk5_block", "matrix_trap_block", "marker_lesion_share"} <= set(tiny_model.prior_only)
    only = tiny_model.prior_only

    def total(fixed, rest):
        return sum(x.sum() for x in tiny_model.log_likelihood(rest | fixed, data).values())

    gradient = jit(jax.grad(total))
    for sites in draws[:2]:
        g = gradient({n: sites[n] for n in only}, {n: x for n, x in sites.items() if n not in only})
        for name, value in g.items():
            assert (np.asarray(value) == 0).all(), name


def test_informed_parameters_are_sampled(tiny_model):
    for name in ("resorption_elasticity", "denosumab_ec50", "zoledronic_acid_ed", "pamidronate_relative", "loop_strength",
                 "sre_baseline", "death_baseline", "frailty", "survey_ascertainment", "sre_between_sd"):  # fmt: skip
        assert name in tiny_model.sampled


def test_weights_are_data(tiny_model, draws):
    """A weight of zero takes an outcome out of the density; nothing compiles again."""
    data = tiny_model.data
    density = jit(tiny_model.log_density)
    full = float(density(draws[0], data))
    weights = {f: w.at[0].set(0.0) if f == "crude" else w for f, w in data["weights"].items()}
    less = float(density(draws[0], data | {"weights": weights}))
    term = float(tiny_model.compiled_log_likelihood(draws[0], data)["crude"][0])
    assert full - less == pytest.approx(term, rel=1e-9)
    assert density._cache_size() == 1


def test_a_prior_sourced_from_fitted_patients_is_refused(tiny_model):
    from osteobayes.model import Model
    from osteobayes.priors import PriorSource

    priors = tiny_model.priors
    old = priors["frailty"]
    source = PriorSource(citation="x", where="y", value="z", patients="P136")
    changed = PriorSet(priors.parameters | {"frailty": old.model_copy(update={"sources": (source,)})})
    with pytest.raises(OsteobayesError, match=r"frailty.*P136"):
        Model.build(tiny_model.evidence, changed, tiny_model.grid)


def test_quadrature_in_jax_is_the_one_in_numpy():
    from osteobayes.model.likelihood import quadrature_at
    from osteobayes.observe import interpolation, quadrature

    t = np.linspace(0, 3, 61)
    for x in (0.0, 0.013, 0.7, 1.05, 2.999):
        q, p = quadrature_at(jnp.asarray(x), jnp.asarray(t))
        np.testing.assert_allclose(q, quadrature(t, x), atol=1e-12)
        np.testing.assert_allclose(p, interpolation(t, x), atol=1e-12)


def test_flat_order_is_the_template_order(tiny_model):
    from osteobayes.fit.hmc import Sampler

    sampler = Sampler(tiny_model, block=10)
    flat, _ = ravel_pytree(sampler.template)
    assert flat.size == sum(int(np.prod(s.shape)) for s in tiny_model.sampled.values())


def test_total_hazards_are_the_sum_of_the_components():
    """By event definition (three for four arms) and component by component; members of one arm in different cells."""
    rng = np.random.default_rng(11)
    definitions, arms, cells = 3, 4, 5
    zero = jnp.zeros(arms, dtype=int)
    of = Arms(
        counted=jnp.asarray(rng.integers(0, 2, (definitions, len(COMPONENTS))).astype(float)),
        detection=jnp.eye(3), delay=jnp.zeros((0, 7, 7)), definition=jnp.array([0, 2, 1, 2]), cell=jnp.array([[0, 1], [2, 2], [3, 4], [4, 0]]),
        weight=jnp.full((arms, 2), 0.5), sre_effect=jnp.array([1, 0, 2, 1]), death_effect=zero, trial=jnp.ones(arms),
        entry_effect=zero, progression_effect=zero,
        contrast=jnp.array([0, 1, 0, 1]), dropout=zero, onset=zero, onset_effect=zero, prior_event=jnp.array([0.0, 0.2, 0.0, -0.1]),
        administrative=jnp.ones((arms, 7)),
    )  # fmt: skip
    hazards = CellHazards(
        jnp.asarray(rng.gamma(2.0, size=(cells, len(COMPONENTS), 7))), *[jnp.ones((cells, 7))] * 7,
        jnp.array([0, 1, 0, 1, 1]),
    )  # fmt: skip
    values = {
        "sre_baseline": jnp.array([-0.5, 0.3]), "frailty": jnp.array(0.5), "front_loading": jnp.array(0.4),
        "front_loading_time": jnp.array(0.3), "survey_ascertainment": jnp.array(2.0), "symptomatic_ascertainment": jnp.array(0.6),
        "prior_event_effect": jnp.array(0.5),
    }  # fmt: skip
    effects = {"sre": jnp.array([0.0, 0.2, -0.7]), "contrast": jnp.array([0.0, 0.1])}
    total = curves.total_hazards(of, hazards, values, effects)
    parts = curves.component_hazards(of, hazards, values, effects)
    assert parts.shape == (arms, 2, len(COMPONENTS), 7)
    np.testing.assert_allclose(total, parts.sum(axis=2), rtol=1e-12)
    t = np.arange(7) / 52.0
    looked = of._replace(delay=jnp.stack([jnp.eye(7), jnp.asarray(delayed(t, 1.5 / 52.0)), jnp.eye(7)]))
    late = curves.component_hazards(looked, hazards, values, effects)
    np.testing.assert_allclose(curves.total_hazards(looked, hazards, values, effects), late.sum(axis=2), rtol=1e-12)
    arm = 2  # of the definition with surveys every three weeks
    fracture = np.asarray(parts[arm, :, COMPONENTS.index("fracture")])
    expected = np.stack([np.interp(t - 1.5 / 52.0, t, h, left=0.0) for h in fracture])
    np.testing.assert_allclose(late[arm, :, COMPONENTS.index("fracture")], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(late[0], parts[0], rtol=1e-12)
    few = curves.component_hazards(of.at(jnp.array([3, 1])), hazards, values, effects)
    np.testing.assert_allclose(few, parts[jnp.array([3, 1])], rtol=1e-12)


def test_selection_at_entry_fades_and_is_of_trials_only():
    """Death: ``b_s - (trial psi + psi_s) exp(-t / tau)`` on the log hazard, and the contrast of a treated arm beside it."""
    t, zero = jnp.array([0.0, 0.5, 2.0]), jnp.zeros(4, dtype=int)
    of = Arms(
        *[zero] * 4, cell=jnp.zeros((4, 1), dtype=int), weight=jnp.ones((4, 1)), sre_effect=zero, death_effect=jnp.array([0, 1, 0, 1]),
        trial=jnp.array([0.0, 1.0, 1.0, 0.0]), entry_effect=jnp.array([0, 0, 1, 1]), progression_effect=zero,
        contrast=jnp.array([1, 0, 0, 0]), dropout=zero, onset=zero, onset_effect=zero, prior_event=jnp.zeros(4),
        administrative=jnp.ones((4, 3)),
    )  # fmt: skip
    hazards = CellHazards(
        jnp.ones((1, len(COMPONENTS), 3)), jnp.array([[1.0, 2.0, 3.0]]), *[jnp.ones((1, 3))] * 6, jnp.array([0])
    )
    values = {"entry_selection": jnp.array(0.8), "entry_selection_time": jnp.array(0.5)}
    effects = {"death": jnp.array([0.0, 0.3]), "entry": jnp.array([0.0, 0.6]), "contrast": jnp.array([0.0, -0.4])}
    fading = np.exp(-np.asarray(t) / 0.5)
    expected = np.log([1.0, 2.0, 3.0]) + np.array([0.0 * fading, 0.3 - 0.8 * fading, -1.4 * fading, 0.3 - 0.6 * fading])
    found = curves.member_death(of, hazards, values, effects, t)
    np.testing.assert_allclose(np.log(found[:, 0]), expected, atol=1e-14)
    treated = curves.member_death(of, hazards, values, effects, t, treated=True)
    np.testing.assert_allclose(
        np.log(treated[:, 0]) - expected, [[-0.4] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3], atol=1e-14
    )


def test_padding_of_arms_is_left_out_and_changes_nothing(tiny_model):
    """Curves by way of the members that there are equal those of all places, and the places of padding are finite."""
    evidence = Evidence.load(shipped("datasets")).select(study=["henry2011_244", "landi2019", "saad2002_p039"])
    model = Model.build(evidence, PriorSet.load(), tiny_model.grid)
    values = model.values(model.draw_prior(jax.random.key(2), model.data), model.data)
    cells, _ = jit(lambda v, d: model.hazards(v, d))(values, model.data)
    effects, checked = curves.effect_vectors(values), 0
    for kind, arms in model.data["arms"].items():
        if not arms.cell.shape[0]:
            continue
        real = np.asarray(arms.weight) > 0
        assert np.array_equal(np.asarray(arms.real), np.argwhere(real))
        found = curves.CURVES[kind](arms, cells, values, effects, model.data["years"])
        whole = curves.CURVES[kind](arms._replace(real=None, place=None), cells, values, effects, model.data["years"])
        for name in ("hazard", "at_risk", "stay"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12)
        for name in ("member_hazard", "member_at_risk"):
            np.testing.assert_allclose(getattr(found, name)[real], getattr(whole, name)[real], rtol=1e-12)
            assert np.isfinite(getattr(found, name)).all()
        checked += (~real).sum()
    assert checked > 0


def test_a_compiled_function_sees_every_outcome_in_its_place():
    """JAX sorts the keys of dicts: what a compiled likelihood joins block by block must stand in the order of the outcomes."""
    evidence = Evidence.load(shipped("datasets"))
    packed = Model.build(evidence, PriorSet.load(shipped("priors")), Grid(7, 160, 1, 1)).packed
    seen = {}

    @jax.jit
    def joined(rows):
        blocked = {f: b for f, b in rows.items() if not hasattr(b, "_fields")}
        seen.update({f: list(b) for f, b in blocked.items()})
        return {f: jnp.concatenate([r.se if hasattr(r, "se") else r.n for r in b.values()]) for f, b in blocked.items()}

    numbers = joined(packed.data)
    frame = evidence.outcomes.set_index("outcome_id")
    checked = 0
    for family, ids in packed.outcomes.items():
        blocks = list(packed.table.loc[list(ids), "block"])
        if family not in seen:
            continue
        assert seen[family] == list(dict.fromkeys(blocks)), family
        for outcome, value in zip(ids, np.asarray(numbers[family]), strict=True):
            if outcome not in frame.index:
                continue  # the landmarks of a curve
            row = frame.loc[outcome]
            if family in ("crude", "median", "rate", "responder"):
                assert value == row["n"], outcome
                checked += 1
            elif row["statistic"] == "hazard_ratio" and row["level"] == 0.95:
                assert value == pytest.approx(np.log(row["high"] / row["low"]) / 3.92, rel=1e-4), outcome
                checked += 1
    assert checked > 80


def test_numbers_of_the_same_patients_in_one_law():
    """Level 2: the fitted numbers and those of the same patients, with what their correlations add to their own laws."""
    evidence = Evidence.load(shipped("datasets")).select(study=["stopeck2010_136", "saad2002_p039"])
    priors, grid = PriorSet.load(shipped("priors")), Grid(14.0, 80, 1)
    alone, model = Model.build(evidence, priors, grid), Model.build(evidence, priors, grid, joint=True)
    assert "patient_set" not in alone.packed.outcomes
    assert (alone.information()["ratio"] > 0.99).all()
    assert 0.4 < model.information()["ratio"].min() < 0.65  # STATISTICS of simulated trials: 0.5 with eight numbers
    more = {o for ids in model.packed.outcomes.values() for o in ids}
    assert {o for ids in alone.packed.outcomes.values() for o in ids} < more
    assert {"stopeck2010_136/hr", "stopeck2010_136/ag", "stopeck2010_136/sre_together"} <= more
    sites = model.draw_prior(jax.random.key(2), model.data)
    expected, failed = jit(lambda s: model.expected(model.values(s, model.data), model.data))(sites)
    assert int(failed) == 0
    a = expected["patient_set"]
    found = likelihood_of.log_lik("patient_set", model.data["observed"]["patient_set"], a)
    for k, outcome in enumerate(model.packed.outcomes["patient_set"]):
        z, r = np.asarray(a["z"][k]), np.asarray(a["correlation"][k])
        there = np.isfinite(z)
        z, r = z[there], r[np.ix_(there, there)]
        joint = stats.multivariate_normal.logpdf(z, np.zeros(len(z)), r)
        assert float(found[k]) == pytest.approx(joint - stats.norm.logpdf(z).sum(), rel=1e-8), outcome
    hr = model.packed.outcomes["hazard_ratio"].index("stopeck2010_136/hr")
    own = expected["hazard_ratio"]
    z = (model.packed.observed["hazard_ratio"][hr] - float(own["b"][hr])) / float(own["se"][hr])
    assert float(own["rho"][hr]) == 0.0  # its correlation with the reference arm stands in the set
    assert np.isclose(np.asarray(a["z"]), z, rtol=1e-6).any()


@pytest.mark.slow
@pytest.mark.parametrize("use", ["fit", "check"])
def test_value_and_gradient_are_finite_for_every_row(use):
    """500 prior draws, every row that the model can use, by every parameter: nothing is NaN or infinite."""
    evidence = Evidence.load(shipped("datasets"))
    model = Model.build(evidence, PriorSet.load(shipped("priors")), Grid(7.0, 160, 2, 2), use=use)

    @jit
    def rows_and_slope(key):
        sites = model.draw_prior(key, model.data)

        def total(sites):
            terms = model.log_likelihood(sites, model.data)
            return sum(x.sum() for x in terms.values()), terms

        (value, terms), slope = jax.value_and_grad(total, has_aux=True)(sites)
        finite = jnp.stack([jnp.isfinite(x).all() for x in slope.values()]).all()
        return value, {f: jnp.isfinite(x) for f, x in terms.items()}, finite

    for i in range(500):
        value, terms, finite = rows_and_slope(jax.random.key(i))
        bad = [
            o for f, x in terms.items() for o, ok in zip(model.packed.outcomes[f], np.asarray(x), strict=True) if not ok
        ]
        assert not bad, (i, bad)
        assert np.isfinite(value) and finite, i


def test_weights_of_studies_and_outcomes(tiny_model):
    packed = tiny_model.packed
    outcome = packed.table.index[packed.table["study"] == "lipton2000"][0]
    weighted = packed.weighted({"lipton2000": 0.0, outcome: 0.25})
    for family, ids in packed.outcomes.items():
        expected = [0.25 if o == outcome else float(packed.table.loc[o, "study"] != "lipton2000") for o in ids]
        np.testing.assert_array_equal(weighted.weights[family], expected)
    other = dataclasses.replace(tiny_model, packed=weighted)
    assert other.fingerprint() != tiny_model.fingerprint()
    assert (
        dataclasses.replace(tiny_model, packed=packed.weighted({"lipton2000": 1.0})).fingerprint()
        == tiny_model.fingerprint()
    )
    with pytest.raises(
        OsteobayesError, match=r"no fitted study or outcome is called 'lipton200'; did you mean 'lipton2000'"
    ):
        packed.weighted({"lipton200": 0.0})
    with pytest.raises(OsteobayesError, match="lipton2000 has 2; give a number from 0"):
        packed.weighted({"lipton2000": 2.0})
