"""Blocks, compile counts, resume, atomic writes: on two breast studies with a coarse grid."""

import json
from concurrent.futures import Future
from dataclasses import asdict

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from osteobayes.cycle.fluxes import ACTIONS, FRACTIONS
from osteobayes.errors import OsteobayesError, RunError
from osteobayes.fit import Run, Settings, calibrate, resume
from osteobayes.fit.hmc import (
    FIRST_STEP,
    LONG,
    MOST_CHANGE,
    MOST_STEPS,
    SHARE_SHORT,
    SHORT,
    state_from,
    step_for,
    steps_at,
)
from osteobayes.fit.run import SAMPLING, WARM_UP, _begin, refreshed_metric
from osteobayes.fit.start import first_points, mode_of_chain, search, weights
from osteobayes.fit.workers import in_processes, in_threads
from osteobayes.predict import predict

TINY = {
    "cancers": ("breast",), "grid": (14.0, 80, 2), "chains": 2, "draws": 20, "tune": 20, "block": 10, "starts": 1,
    "search_iterations": 25, "prior_draws": 20, "trajectory": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(two_studies, tmp_path_factory):
    return calibrate(two_studies, out=tmp_path_factory.mktemp("runs") / "whole", **TINY)


def test_a_run_holds_every_group_and_key(finished):
    run = Run.load(finished.path)
    groups = {
        "posterior",
        "sample_stats",
        "log_likelihood",
        "log_prior",
        "posterior_predictive",
        "prior",
        "prior_predictive",
        "observed_data",
    }
    assert groups <= set(run.tree.children)
    assert run.tree["posterior"]["resorption_elasticity"].shape == (2, 20)
    assert run.tree["posterior"]["sre_baseline"].dims == ("chain", "draw", "cancer")
    keys = {
        "max_rhat",
        "min_ess_bulk",
        "min_ess_tail",
        "bfmi",
        "divergences",
        "solver_failures",
        "coverage_90",
        "sharpness",
        "wall_s",
        "peak_memory_gib",
        "usable",
        "sentence",
    }
    assert keys <= set(json.loads((run.path / "diagnostics.json").read_text()))
    assert (run.path / "inputs.zip").is_file()
    learned = pd.read_csv(run.path / "parameters.csv", keep_default_na=False).set_index(["parameter", "level"])
    assert learned.loc[("sre_baseline", "breast"), "contraction"] > learned.loc[("sre_baseline", "lung"), "contraction"]
    assert not list(run.path.rglob("*.part"))


def test_a_run_this_short_may_not_be_used(finished):
    assert finished.diagnostics["usable"] is False
    assert "may not be used" in finished.diagnostics["sentence"]


def test_the_model_is_rebuilt_from_the_inputs(finished):
    assert Run(finished.path).model.fingerprint() == finished.manifest["fingerprint"]


def test_resume_continues_bit_identically_and_only_the_first_block_compiles(finished, two_studies, tmp_path):
    class Stop(Exception):
        pass

    def stop_after(n):
        def advance(done, total, text):
            if done >= n * TINY["block"]:
                raise Stop

        return advance

    out = tmp_path / "interrupted"
    with pytest.raises(Stop):
        calibrate(two_studies, out=out, advance=stop_after(3), **TINY | {"draws": 10})  # 10 more are asked for below
    assert len(Run(out).blocks) == 3
    with pytest.raises(RunError, match="not finished"):
        Run.load(out)
    compiled: list[float] = []
    marks: list[int] = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    again = resume(out, advance=lambda done, total, text: marks.append(len(compiled)), draws=TINY["draws"])
    assert len(marks) >= 1
    assert len(set(marks)) == 1, "a block after the first compiled something"
    whole, parts = (r.blocks.arrays("draws")["draws"] for r in (finished, again))
    np.testing.assert_array_equal(whole, parts)


def test_a_phase_begins_with_the_same_bits_after_an_interruption(finished):
    """Gradients of earlier draws are computed in the same parts: whole, their sums differed in the last bits."""
    settings, model = finished.settings, finished._memory["model"]
    sampler, data = settings.sampler(model), model.sampling_data
    went_on = Run(finished.path, {"model": model})
    for phase in WARM_UP[2:]:
        begun = _begin(went_on, sampler, data, settings, phase)
    resumed = _begin(Run(finished.path, {"model": model}), sampler, data, settings, WARM_UP[-1])
    for one, other in zip(begun[1:], resumed[1:], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_process_of_its_own_runs_the_same_block(finished, tmp_path):
    """One block of both chains in threads and in two single-threaded processes: the same draws up to rounding."""
    settings, model = finished.settings, finished._memory["model"]
    sampler = settings.sampler(model)
    coordinates = finished.coordinates(SAMPLING)
    last = finished.blocks.state()
    like = jax.eval_shape(sampler.plain_state)
    states = [
        state_from({k.removeprefix(f"chain{c}_"): v for k, v in last.items() if k.startswith(f"chain{c}_")}, like)
        for c in range(2)
    ]
    with in_threads(sampler, model.sampling_data, 2) as chains:
        here = chains(states, coordinates, 1.0)
    prior_only = Future()
    prior_only.set_result(model.prior_only)
    with in_processes(finished.path, 2, prior_only) as chains:
        there = chains(states, coordinates, 1.0)
    for (state, z, stats), (state2, z2, stats2) in zip(here, there, strict=True):
        np.testing.assert_allclose(z2[:3], z[:3], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(stats2["n_steps"][:3], stats["n_steps"][:3])
        np.testing.assert_allclose(state2.adapt_state.step_size, state.adapt_state.step_size)
    with (
        in_processes(tmp_path / "nothing", 1, prior_only) as chains,
        pytest.raises(RunError, match="sampling process ended"),
    ):
        chains(states[:1], coordinates, 1.0)


def test_the_step_size_moves_between_blocks_of_warm_up_only(finished):
    """One step size for all chains in a block, and while sampling what the blocks of the last phase of warm-up say."""
    kept = finished.blocks.arrays()
    phases = kept["phase"].tolist()
    assert sorted(set(phases)) == [*WARM_UP, SAMPLING] and phases == sorted(phases)
    steps, acceptance = (
        np.split(kept[f"stat_{name}"], len(phases), axis=1) for name in ("step_size", "acceptance_rate")
    )
    steps = [np.unique(s) for s in steps]
    assert all(len(s) == 1 for s in steps)
    assert steps[1] != steps[0] == FIRST_STEP
    last = [
        step_for(finished.settings.target, s[0], rate)
        for s, rate, phase in zip(steps, acceptance, phases, strict=True)
        if phase == WARM_UP[-1]
    ]
    expected = np.exp(np.mean(np.log(last)))
    np.testing.assert_allclose([s[0] for s, p in zip(steps, phases, strict=True) if p == SAMPLING], expected)


def test_a_step_size_follows_from_what_was_accepted():
    assert step_for(0.9, 0.2, np.array([0.85, 0.95])) == pytest.approx(0.2)
    assert step_for(0.9, 0.2, np.array(0.6)) == pytest.approx(0.1)  # four times as much was refused: half the step
    assert step_for(0.9, 0.2, np.array(1.0)) == pytest.approx(0.2 * MOST_CHANGE)
    assert step_for(0.9, 0.2, np.array(0.0)) == pytest.approx(0.2 / MOST_CHANGE)


def test_trajectories_go_evenly_through_two_ranges_and_are_as_long_in_all_chains(finished):
    kept = finished.blocks.arrays()
    steps, sizes = kept["stat_n_steps"], kept["stat_step_size"]
    sampling = slice(-TINY["draws"], None)
    np.testing.assert_array_equal(steps[0, sampling], steps[1, sampling])
    last = finished.settings.warm_up[-1]
    places = np.arange(last, last + TINY["draws"])  # counted from the last phase of warm-up
    expected = steps_at(places, sizes[0, sampling], TINY["trajectory"])
    np.testing.assert_array_equal(steps[0, sampling], expected)
    many = np.asarray(steps_at(np.arange(1000), 0.01, 0.6)) / 60.0
    short = many <= SHORT[1]
    assert abs(short.mean() - SHARE_SHORT) < 0.01
    for part, (low, high) in ((many[short], SHORT), (many[~short], LONG)):
        assert abs(part.mean() - 0.5 * (low + high)) < 0.01 and part.min() >= low - 0.01 and part.max() <= high
    assert steps_at(3, 1e-9, 4.0) == MOST_STEPS and steps_at(3, 1e9, 4.0) == 1


def test_a_run_of_another_version_is_refused_in_words(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(RunError, match="another version of osteobayes began this run"):
        resume(tmp_path)
    kept = json.loads(json.dumps(asdict(Settings(cancers=("breast",)))))
    assert Settings.of(kept) == Settings(cancers=("breast",))
    with pytest.raises(RunError, match=r"max_tree_depth\): fit it again"):
        Settings.of(kept | {"max_tree_depth": 6})


def test_the_metric_is_the_covariance_of_a_gaussian():
    """Few draws, their gradients and the curvature of one normal law: the noise of draws and gradients cancels exactly."""
    rng = np.random.default_rng(8)
    L = 0.3 * np.tril(rng.normal(size=(4, 4))) + np.eye(4)
    covariance = L @ L.T
    assert np.linalg.eigvalsh(covariance).max() < 5.0  # flatter curvature is raised to 0.2
    draws = rng.normal(size=(12, 4)) @ L.T
    precision = np.linalg.inv(covariance)
    np.testing.assert_allclose(refreshed_metric(draws, draws @ precision, precision), covariance, rtol=1e-9)


def test_the_metric_is_wider_than_the_curvature_where_tails_are_long():
    """A Laplace law: its variance is 2, the inverse of its mean squared gradient 1; the metric lies between, beside a normal 1."""
    rng = np.random.default_rng(9)
    draws = np.stack([rng.laplace(size=20000), rng.normal(size=20000)], axis=-1)
    gradients = np.stack([np.sign(draws[..., 0]), draws[..., 1]], axis=-1)
    metric = refreshed_metric(draws, gradients, np.eye(2))
    assert 1.45 < metric[0, 0] < 1.95
    assert abs(metric[1, 1] - 1.0) < 0.05


def test_a_finished_run_is_not_resumed_and_a_full_folder_not_overwritten(finished, two_studies):
    for draws in (None, TINY["draws"]):
        with pytest.raises(RunError, match="finished with 20 draws a chain"):
            resume(finished.path, draws=draws)
    with pytest.raises(RunError, match="not empty"):
        calibrate(two_studies, out=finished.path, **TINY)


def test_predictions_carry_interval_population_and_grade(finished):
    from osteobayes.predict import predict

    with pytest.raises(RunError, match="anyway"):
        predict(finished, "denosumab", "breast", "stopeck2010_136")
    p = predict(
        finished,
        ["placebo", "denosumab", "denosumab + galunisertib"],
        "breast",
        "stopeck2010_136",
        anyway=True,
        draws=20,
    )
    rows = p.table.set_index("regimen")
    assert set(rows["grade"]) <= {"prior-only", "partly", "trial-calibrated", "comparator"}
    assert (rows["p_sre_low"] <= rows["p_sre"]).all() and (rows["p_sre"] <= rows["p_sre_high"]).all()
    assert rows["p_sre"].between(0, 1).all()
    combination = next(r for r in rows.index if "galunisertib" in r)
    assert rows.loc[combination, "grade"] == "prior-only"  # no fitted row of its class, whatever contracted
    for name in ("risk_ratio", "rate_ratio"):
        assert (rows[f"{name}_low"] <= rows[name]).all() and (rows[name] <= rows[f"{name}_high"]).all()
    log_ratio = {
        g: np.log(p.draws[f"mean_sre_{g}"].sel(regimen="placebo") / p.draws[f"mean_sre_{g}"].sel(regimen=p.versus))
        for g in ("posterior", "prior")
    }
    width = {g: float(np.subtract(*np.quantile(x, [0.95, 0.05]))) for g, x in log_ratio.items()}
    assert rows.loc["placebo", "width_of_prior"] == pytest.approx(width["posterior"] / width["prior"])
    assert p.population == "stopeck2010_136"


def test_predict_refuses_what_it_cannot_know(finished):
    from osteobayes.errors import OsteobayesError, RegimenError
    from osteobayes.predict import predict

    with pytest.raises(OsteobayesError, match="no study"):
        predict(finished, "denosumab", "breast", "nobody", anyway=True)
    with pytest.raises(OsteobayesError, match="prostate"):
        predict(finished, "denosumab", "prostate", "stopeck2010_136", anyway=True)
    with pytest.raises(RegimenError):
        predict(finished, "denosumabb 120 mg q4w", "breast", "stopeck2010_136", anyway=True)
    with pytest.raises(RunError, match="horizon"):
        predict(finished, "denosumab", "breast", "stopeck2010_136", horizon_months=600, anyway=True)


def test_settings_are_checked():
    with pytest.raises(RunError, match="chains"):
        Settings(chains=0)


def test_search_finds_both_modes_of_a_mixture_and_their_weights():
    """Two Gaussian wells of different depth: both found, weights as their masses."""

    def potential(z):
        a, b = 0.5 * ((z - 3) ** 2).sum(axis=1), 0.5 * ((z + 3) ** 2).sum(axis=1) + 1.0
        m = np.minimum(a, b)
        pa, pb = np.exp(m - a), np.exp(m - b)
        value = m - np.log(pa + pb)
        return value, (pa[:, None] * (z - 3) + pb[:, None] * (z + 3)) / (pa + pb)[:, None]

    starts = [np.full(2, s) for s in (-4.0, -2.0, 2.0, 4.0)]
    optima = search(potential, starts, np.ones(2, bool), workers=2)
    assert len(optima) == 2
    np.testing.assert_allclose(weights(optima), [1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1))], atol=0.01)
    assert mode_of_chain(optima, 4).tolist() == [0, 1, 0, 1]


def test_an_optimum_at_the_edge_of_what_can_be_solved_is_left_out_and_said():
    """A well whose bottom is the last finite place: right of zero nothing can be solved."""

    def cliff(z):
        beyond = z[:, 0] > 0.0
        value = 0.5 * ((z - 3.0) ** 2).sum(axis=1)
        return np.where(beyond, np.nan, value), np.where(beyond[:, None], np.nan, z - 3.0)

    def both(z):
        value, slope = cliff(z)
        whole, other = 4.0 + 0.5 * ((z + 20.0) ** 2).sum(axis=1), z + 20.0
        left = z[:, 0] < -10.0
        return np.where(left, whole, value), np.where(left[:, None], other, slope)

    said: list[str] = []
    edge, inside = np.array([0.0, 2.0]), np.array([-21.0, -19.0])
    optima = search(both, [edge, inside], np.ones(2, bool), workers=1, progress=said.append)
    assert [o.z for o in optima] == [pytest.approx([-20.0, -20.0])]
    assert any("left out: the gradient beside an optimum is not finite" in text for text in said)
    with pytest.raises(RunError, match="cannot be solved beside any"):
        search(both, [edge], np.ones(2, bool), workers=1)


INVENTED = """\
  - name: invented {flux}
    class: invented_{flux}
    unit: {unit}
    standard: {standard}
    standard_dose: 1
    actions: [{{flux: {flux}, form: {form}, potency: {flux}_of_invented{relative}}}]
    kinetics: {{kind: {kind}, source: made up for this test}}
"""
POTENCY = """\
  - name: {name}
    symbol: x
    meaning: potency of an agent made up for this test
    unit: "1"
    family: {family}
    status: weak
    rationale: made up for this test
"""


def invented(folder):
    """One YAML file with an agent of each mechanism and the priors of their potencies; no code."""
    agents, parameters = "", ""
    for flux in ACTIONS:
        beam = flux == "external_beam_kill"
        form = "linear_quadratic" if beam else "fraction" if flux in FRACTIONS else "rate"
        agents += INVENTED.format(
            flux=flux, form=form, unit="Gy" if beam else "mg", standard="1 Gy daily x5" if beam else "1 mg q4w",
            relative=", relative: field_of_invented" if beam else "",
            kind="pulse, half_life_days: 1, alpha_beta_gy: 5" if beam else "window" if form == "fraction"
            else "doses, half_life_days: 20",
        )  # fmt: skip
        size = 0.003 if flux.endswith("kill") and not beam else 0.3
        family = (
            "beta\n    alpha: 4\n    beta: 4"
            if form == "fraction"
            else f"lognormal\n    median: {size}\n    log_sd: 0.3"
        )
        parameters += POTENCY.format(name=f"{flux}_of_invented", family=family)
    parameters += POTENCY.format(name="field_of_invented", family="beta\n    alpha: 4\n    beta: 4")
    folder.mkdir()
    text = f"format: 1\nagents:\n{agents}parameters:\n{parameters}"
    (folder / "invented.yaml").write_text(text, encoding="utf-8")
    return folder


def test_an_invented_agent_of_each_mechanism_is_a_yaml_block_and_no_code(finished, tmp_path):
    """A run that knew nothing of them predicts with them, their potencies drawn from their priors; it says `prior-only`."""
    folder, names = invented(tmp_path / "therapies"), [f"invented {flux}" for flux in ACTIONS]
    found = predict(
        finished, names, "breast", "stopeck2010_136", versus="placebo", draws=8, anyway=True, therapies=folder
    )
    assert len(found.table) == len(ACTIONS) and set(found.table["grade"]) == {"prior-only"}
    prior = found.draws["p_sre_prior"].sel(regimen=[r for r in found.table["regimen"]]) - found.draws[
        "p_sre_prior"
    ].sel(regimen="placebo")
    acts = (np.abs(prior.to_numpy()) > 1e-9).any(axis=0)
    idle = {f for f, moved in zip(ACTIONS, acts, strict=True) if not moved}
    assert idle <= {"osteoblastic_drive_block"}, idle  # breast lesions have no osteoblastic drive
    with pytest.raises(OsteobayesError, match="no agent of that name"):
        predict(finished, names[:1], "breast", "stopeck2010_136", anyway=True)
    (folder / "invented.yaml").write_text((folder / "invented.yaml").read_text().split("parameters:")[0])
    with pytest.raises(OsteobayesError, match=r"priors lack `\w+_of_invented`"):
        predict(finished, names[:1], "breast", "stopeck2010_136", anyway=True, therapies=folder)
    with pytest.raises(OsteobayesError, match="already has a parameter `denosumab_ec50`"):
        known = "parameters:\n" + POTENCY.format(
            name="denosumab_ec50", family="lognormal\n    median: 1\n    log_sd: 1"
        )
        (folder / "invented.yaml").write_text(f"format: 1\nagents: []\n{known}")
        predict(finished, "denosumab", "breast", "stopeck2010_136", anyway=True, therapies=folder)


def test_patterns_of_a_run(finished):
    from osteobayes.patterns import patterns

    found = patterns(Run.load(finished.path), 20, checks=False)
    named = found.table.set_index("study")
    assert set(named["agent"]) == {"pamidronate", "denosumab"} and named["named"].all()
    assert named.loc["lipton2000", "published"] == pytest.approx((186 / 367) / (246 / 384), rel=0.1)
    for r in found.table.itertuples():
        assert r.posterior_low <= r.posterior <= r.posterior_high
        assert r.new_predicted_high / r.new_predicted_low > 1.0
    assert len(found.fitted) == len(found.fitted["new_inside"]) and found.sentences


def test_memory_now_is_no_more_than_the_peak():
    import resource

    from osteobayes.fit.workers import peak_gib, resident_gib

    held = np.ones(2**25)  # a quarter of a GiB, touched
    with_it = resident_gib()
    del held
    assert 0.25 < with_it <= peak_gib(resource.RUSAGE_SELF) * 1.001


def test_chains_start_where_the_density_allows():
    """A good centre and spread stay; a spread that falls off a cliff is halved; a centre far below another is given up."""

    def potential(x):
        return 0.5 * (x**2).sum(axis=1) * np.where(np.abs(x).max(axis=1) > 2.0, 1e6, 1.0)

    good, bad = np.zeros((2, 10)), np.full((2, 10), 30.0)
    near = np.full((2, 10), 0.5)
    np.testing.assert_array_equal(first_points(potential, [good, bad], near), near)
    np.testing.assert_array_equal(first_points(potential, [bad, good], near), near)
    far = np.stack([np.full(10, 5.0), np.full(10, 0.5)])
    found = first_points(potential, [good], far)
    np.testing.assert_array_equal(found, np.stack([np.full(10, 1.25), np.full(10, 0.5)]))


def test_a_run_of_another_sampler_keeps_finished_chains(two_studies, tmp_path, monkeypatch):
    """Interrupted in its second chain: that one starts again and says so, the first is kept; the result has every table."""
    from osteobayes.errors import Interrupted
    from osteobayes.fit import by_chain
    from osteobayes.fit.posterior import Posterior

    asked = []

    def sampled(model, backend, sampler, draws, tune, chains, seed, target, report):
        asked.append(seed)
        if len(asked) == 2:
            raise Interrupted("SIGTERM came")
        keys = jax.random.split(jax.random.key(seed), draws)
        sites = jax.vmap(lambda k: model.draw_prior(k, model.data))(keys)
        tree = xr.DataTree.from_dict(
            {
                "/posterior": xr.Dataset({n: (("chain", "draw", *(f"{n}_{i}" for i in range(x.ndim - 1))), x[None]) for n, x in sites.items()}),
                "/sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((1, draws), dtype=bool))}),
            }
        )  # fmt: skip
        return Posterior(model, tree, {})

    monkeypatch.setattr(by_chain, "fit", sampled)
    out, told = tmp_path / "run", []
    with pytest.raises(Interrupted):
        calibrate(two_studies, out=out, algorithm="numpyro/nuts", **TINY)
    run = resume(out, told.append)
    assert asked == [0, 1, 1] and any("chain 2 was begun and not finished" in text for text in told)
    again = Run.load(out)
    assert again.tree["posterior"].sizes["chain"] == 2 and again.diagnostics["acceptance_rate"] is None
    assert {p.name for p in out.iterdir()} >= {"results.nc", "parameters.csv", "fit_by_outcome.csv", "diagnostics.json"}
    xr.testing.assert_allclose(run.tree["posterior"].to_dataset(), again.tree["posterior"].to_dataset())
    with pytest.raises(RunError, match="draws cannot be added to a run of numpyro/nuts"):
        resume(out, draws=500)


def test_samplers_that_make_no_run_are_refused(two_studies, tmp_path):
    with pytest.raises(RunError, match="numpyro/svi is an approximation"):
        calibrate(two_studies, out=tmp_path / "run", algorithm="numpyro/svi", **TINY)
    with pytest.raises(RunError, match=r"no sampler 'pymc/nutz'.*pymc/nuts"):
        calibrate(two_studies, out=tmp_path / "run", algorithm="pymc/nutz", **TINY)
