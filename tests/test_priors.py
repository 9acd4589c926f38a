"""The priors room: what ships, its provenance, sampling and densities, pooling, overlays and their errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from osteobayes.errors import PriorError
from osteobayes.model.emit import FAMILIES
from osteobayes.priors import PriorSet, describe, log_density
from osteobayes.schema import CANCERS

FROZEN_BETWEEN_STUDY_SD = {
    "sre_between_sd": 0.5,
    "os_between_sd": 0.4,
    "registry_between_sd": 0.8,
    "effect_between_sd": 0.15,
}
EXAMPLE = """\
format: 1
parameters:
  - name: spread
    symbol: s
    meaning: spread of the rates
    unit: '1'
    family: halfnormal
    sd: 0.5
    status: weak
    rationale: made for this test
  - name: rate
    symbol: r
    meaning: rate of each cancer
    unit: 1/day
    family: lognormal
    median: {breast: 1, prostate: 2, lung: 3, other_solid: 4, myeloma: 5}
    log_sd: 0.4
    dims: [cancer]
    pooling: cancer
    between_sd: spread
    status: weak
    rationale: made for this test
  - name: fold
    symbol: A
    meaning: fold of a response
    unit: '1'
    family: lognormal
    median: 2
    log_sd: 0.3
    shift: 1
    status: literature
    rationale: made for this test
    sources: [{citation: A paper, where: Table 1, value: '3', patients: TRIAL}]
  - name: shift_of_study
    symbol: e
    meaning: effect of each study
    unit: '1'
    family: effect
    dims: [study]
    between_sd: spread
    status: weak
    rationale: made for this test
"""


@pytest.fixture(scope="module")
def shipped():
    return PriorSet.load()


@pytest.fixture(scope="module")
def coords(shipped):
    dims = {d for p in shipped.parameters.values() for d in p.dims}
    return {d: CANCERS if d == "cancer" else ("first", "second") for d in sorted(dims)}


@pytest.fixture(scope="module")
def draws(shipped, coords):
    """Eight prior draws of all sites, and the parameters they give."""
    hyper = shipped.hyper(coords)
    sites = [shipped.sample(jax.random.key(seed), hyper, coords) for seed in range(8)]
    return sites, [shipped.values(s, hyper) for s in sites]


def folder(tmp_path, text=EXAMPLE, name="example.yaml"):
    (tmp_path / "priors").mkdir(exist_ok=True)
    (tmp_path / "priors" / name).write_text(text, encoding="utf-8")
    (tmp_path / "priors" / "therapies").mkdir(parents=True, exist_ok=True)  # no agents of its own
    return tmp_path / "priors"


def overlay(tmp_path, text):
    path = tmp_path / "overlay.yaml"
    path.write_text("format: 1\nparameters:\n" + text, encoding="utf-8")
    return path


def refused(call) -> list:
    with pytest.raises(PriorError) as caught:
        call()
    return caught.value.problems


# ---- what ships


def test_every_parameter_says_where_it_comes_from(shipped):
    for p in shipped.parameters.values():
        assert p.meaning and p.unit and p.symbol, p.name
        assert len(p.rationale) > 10, p.name
        assert p.sources or p.status in ("expert", "weak"), p.name
        assert all(s.citation and s.where and s.value for s in p.sources), p.name
    constants = {n for n, p in shipped.parameters.items() if not p.sampled}
    assert set(shipped.constants) == constants and all(shipped.constants.values())
    assert f"{len(constants)} constants" in str(shipped)
    assert len(shipped.table()) == len(shipped)


def test_between_study_spreads_are_the_frozen_ones(shipped):
    for name, sd in FROZEN_BETWEEN_STUDY_SD.items():
        assert (shipped[name].family, shipped[name].sd) == ("halfnormal", sd), name


# ---- sampling and densities


def law(p, cancer=0):
    """SciPy's law of one element of a parameter, written here from the declared numbers."""
    one = lambda x: x[CANCERS[cancer]] if isinstance(x, dict) else x  # noqa: E731
    if p.family == "normal":
        return scipy.stats.norm(one(p.mean), p.sd)
    if p.family == "lognormal":
        return scipy.stats.lognorm(p.log_sd, loc=p.shift, scale=one(p.median))
    if p.family == "halfnormal":
        return scipy.stats.halfnorm(scale=p.sd)
    return scipy.stats.beta(p.alpha, p.beta)


def test_sampling_follows_the_declared_priors(shipped, coords):
    """Kolmogorov-Smirnov on 10 elements of 4000 draws at level 1e-4 each: 1 seed in 1000 would fail."""
    chosen = (
        "tgfb_matrix_share", "pthrp_tgfb_fold", "loop_strength", "background_loss", "immune_kill", "denosumab_ec50",
        "growth_between_sd", "sre_between_sd", "effect_between_sd", "alk5_block",
    )  # fmt: skip
    assert {shipped[n].family for n in chosen} == {"beta", "lognormal", "halfnormal"}
    some = replace(shipped, parameters={n: shipped[n] for n in chosen})
    hyper = some.hyper(coords)
    keys = jax.random.split(jax.random.key(20261122), 4000)
    values = jax.jit(jax.vmap(lambda k: some.values(some.sample(k, hyper, coords), hyper)))(keys)
    for name in chosen:
        x = np.asarray(values[name])
        cancer = 2 if x.ndim == 2 else 0
        x = x[:, cancer] if x.ndim == 2 else x
        assert scipy.stats.kstest(x, law(shipped[name], cancer).cdf).pvalue > 1e-4, name


def test_draws_have_the_shapes_of_the_sites_and_are_finite(shipped, coords, draws):
    sites, values = draws
    for one, parameters in zip(sites, values, strict=True):
        assert {n: x.shape for n, x in one.items()} == {n: s.shape for n, s in shipped.sites(coords).items()}
        assert all(np.isfinite(parameters[n]).all() for n in shipped.parameters)


def test_log_density_is_scipys(shipped, coords, draws):
    hyper = shipped.hyper(coords)
    sites = draws[0][7]
    ours = shipped.log_density(sites, hyper, coords)
    for name, site in shipped.sites(coords).items():
        family, args = shipped.site_distribution(site, sites, hyper)
        scipys = {
            "normal": lambda a: scipy.stats.norm(*a),
            "lognormal": lambda a: scipy.stats.lognorm(a[1], scale=np.exp(a[0])),
            "halfnormal": lambda a: scipy.stats.halfnorm(scale=a[0]),
            "beta": lambda a: scipy.stats.beta(*a),
        }[family]([np.asarray(a) for a in args])
        expected = scipys.logpdf(np.asarray(sites[name])).sum()
        np.testing.assert_allclose(ours[name], expected, rtol=1e-10, atol=1e-10, err_msg=name)


def test_log_density_of_a_parameter_is_that_of_the_declared_law(shipped, coords, draws):
    sites, values = draws[0][3], draws[1][3]
    ours = shipped.log_density(sites, shipped.hyper(coords), coords)
    for name, p in shipped.parameters.items():
        if p.sampled and p.pooling == "none" and p.family != "effect" and p.quantiles is None:
            x = np.atleast_1d(values[name])
            expected = sum(law(p, i if p.dims == ("cancer",) else 0).logpdf(v) for i, v in enumerate(x))
            np.testing.assert_allclose(ours[name], expected, rtol=1e-9, atol=1e-9, err_msg=name)


def test_log_density_is_that_of_the_emitted_numpyro_distributions(shipped, coords, draws):
    hyper = shipped.hyper(coords)
    for sites in draws[0][:3]:
        for name, site in shipped.sites(coords).items():
            family, args = shipped.site_distribution(site, sites, hyper)
            numpyros = FAMILIES[family](*args).log_prob(sites[name])
            np.testing.assert_allclose(log_density(family, args, sites[name]), numpyros, rtol=1e-12, atol=1e-12)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="cauchy"):
        log_density("cauchy", (), jnp.ones(()))


# ---- pooling and effects


def rates(sites, spread, centred):
    """Rates of EXAMPLE's pooled parameter, written out."""
    if centred:
        return np.arange(1, 6) * np.exp(sites["rate_deviation"])
    return np.arange(1, 6) * np.exp(sites["rate_common"] + spread * sites["rate_offset"])


def form(tmp_path, centred):
    """EXAMPLE with pooled parameter and study effect centred or not."""
    text = "".join(f"  - {{name: {n}, centered: {str(centred).lower()}}}\n" for n in ("rate", "shift_of_study"))
    return PriorSet.load(folder(tmp_path), overlay(tmp_path, text))


@pytest.mark.parametrize("centred", [True, False])
def test_pooled_parameters_are_median_times_common_times_offset(tmp_path, centred):
    priors = form(tmp_path, centred)
    coords = {"cancer": CANCERS, "study": ("a", "b", "c")}
    names = {"rate_deviation", "shift_of_study"} if centred else {"rate_offset", "shift_of_study_offset"}
    assert set(priors.sites(coords)) == {"spread", "rate_common", "fold"} | names
    sites = priors.sample(jax.random.key(1), priors.hyper(coords), coords)
    values = priors.values(sites, priors.hyper(coords))
    np.testing.assert_allclose(values["rate"], rates(sites, sites["spread"], centred), rtol=1e-14)
    np.testing.assert_allclose(values["fold"], 1 + sites["fold"], rtol=1e-15)
    assert priors.patients() == {"TRIAL": {"fold"}}


def test_a_pooled_parameter_means_the_same_centred_or_not(tmp_path):
    """Deviation = common + SD times offset; same log density up to the Jacobian SD^5."""
    coords = {"cancer": CANCERS, "study": ()}
    apart, centred = form(tmp_path, False), form(tmp_path, True)
    sites = apart.sample(jax.random.key(3), apart.hyper(coords), coords)
    same = {**sites, "rate_deviation": sites["rate_common"] + sites["spread"] * sites["rate_offset"]}
    hyper = centred.hyper(coords)
    a, b = apart.values(sites, apart.hyper(coords)), centred.values(same, hyper)
    np.testing.assert_allclose(a["rate"], b["rate"], rtol=1e-14)
    np.testing.assert_allclose(
        centred.log_density(same, hyper, coords)["rate_deviation"] + 5 * np.log(sites["spread"]),
        apart.log_density(sites, apart.hyper(coords), coords)["rate_offset"],
        rtol=1e-12,
    )


def test_an_effect_means_the_same_centred_or_not(tmp_path):
    """Centred: Normal(0, SD). Not centred: SD times a standard normal. Same log density up to the Jacobian SD^n."""
    coords = {"cancer": CANCERS, "study": ("a", "b", "c")}
    apart, centred = form(tmp_path, False), form(tmp_path, True)
    sites = apart.sample(jax.random.key(2), apart.hyper(coords), coords)
    values = apart.values(sites, apart.hyper(coords))
    np.testing.assert_allclose(values["shift_of_study"], sites["spread"] * sites["shift_of_study_offset"], rtol=1e-15)
    same = {**sites, "shift_of_study": values["shift_of_study"], "rate_deviation": sites["rate_offset"]}
    again = centred.values(same, centred.hyper(coords))
    np.testing.assert_array_equal(again["shift_of_study"], values["shift_of_study"])
    jacobian = 3 * np.log(sites["spread"])
    np.testing.assert_allclose(
        centred.log_density(same, centred.hyper(coords), coords)["shift_of_study"] + jacobian,
        apart.log_density(sites, apart.hyper(coords), coords)["shift_of_study_offset"],
        rtol=1e-12,
    )


def test_a_dim_without_members_has_no_site(tmp_path):
    priors = PriorSet.load(folder(tmp_path))
    coords = {"cancer": CANCERS, "study": ()}
    sites = priors.sample(jax.random.key(0), priors.hyper(coords), coords)
    assert "shift_of_study" not in sites and "shift_of_study" not in priors.values(sites, priors.hyper(coords))


def test_sampling_some_sites_given_the_others(tmp_path):
    priors = PriorSet.load(folder(tmp_path))
    coords = {"cancer": CANCERS, "study": ("a",)}
    hyper = priors.hyper(coords)
    sites = priors.sample(jax.random.key(0), hyper, coords)
    again = priors.sample(jax.random.key(5), hyper, coords, names=["fold"], given=sites)
    assert again["fold"] != sites["fold"]
    assert all(np.array_equal(again[n], sites[n]) for n in sites if n != "fold")


@pytest.mark.parametrize("centred", [True, False])
def test_fixed_parameters_are_constants_even_a_spread(tmp_path, centred):
    priors = form(tmp_path, centred).fix(spread=0.25, fold=4.0)
    coords = {"cancer": CANCERS, "study": ("a", "b")}
    hyper = priors.hyper(coords)
    sites = priors.sample(jax.random.key(0), hyper, coords)
    values = priors.values(sites, hyper)
    assert "spread" not in sites and "fold" not in sites
    assert (values["spread"], values["fold"]) == (0.25, 4.0)
    np.testing.assert_allclose(values["rate"], rates(sites, 0.25, centred), rtol=1e-14)
    assert all(np.isfinite(x) for x in priors.log_density(sites, hyper, coords).values())


# ---- quantiles, overlays


def test_a_prior_may_be_given_by_two_quantiles(tmp_path):
    text = "  - {name: fold, family: lognormal, quantiles: {0.05: 1.5, 0.95: 6.0}, shift: 1}\n"
    priors = PriorSet.load(folder(tmp_path), overlay(tmp_path, text))
    h = priors.hyper({"cancer": CANCERS, "study": ()})["fold"]
    law = scipy.stats.lognorm(float(h["scale"]), loc=float(h["shift"]), scale=float(np.exp(h["loc"])))
    np.testing.assert_allclose(law.ppf([0.05, 0.95]), [1.5, 6.0], rtol=1e-12)
    assert "quantiles" in describe(priors["fold"])
    text = "  - {name: fold, family: normal, quantiles: {0.1: -1.0, 0.9: 3.0}, shift: 0}\n"
    priors = PriorSet.load(folder(tmp_path), overlay(tmp_path, text))
    h = priors.hyper({"cancer": CANCERS, "study": ()})["fold"]
    np.testing.assert_allclose(scipy.stats.norm(h["loc"], h["scale"]).ppf([0.1, 0.9]), [-1.0, 3.0], rtol=1e-12)


def test_an_overlay_changes_what_it_names_and_keeps_the_rest(tmp_path, shipped):
    text = "  - {name: loop_strength, median: 1.4}\n  - {name: coupling_share, family: beta, alpha: 7, beta: 3}\n"
    changed = PriorSet.load(overlay=overlay(tmp_path, text))
    assert (changed["loop_strength"].median, changed["loop_strength"].log_sd) == (1.4, shipped["loop_strength"].log_sd)
    assert changed["loop_strength"].meaning == shipped["loop_strength"].meaning
    assert changed["coupling_share"].family == "beta" and changed["coupling_share"].sampled
    same = {n for n in shipped.parameters if changed[n] == shipped[n]}
    assert set(shipped.parameters) - same == {"loop_strength", "coupling_share"}
    assert list(changed.parameters) == list(shipped.parameters)
    assert changed.fingerprint() != shipped.fingerprint() == PriorSet.load().fingerprint()


@pytest.mark.parametrize(
    ("text", "row", "field", "word"),
    [
        ("  - {name: fold, median: 3}\n  - {name: folt, median: 3}\n", 4, "name", "fold"),
        ("  - name: spread\n    family: beta\n    alpha: 2\n", 3, "spread", "beta"),
        ("  - {name: fold, log_sd: -1}\n", 3, "fold", "greater than 0"),
        ("  - {name: fold, medain: 3}\n", 3, "fold", "medain"),
        ("  - {name: rate, median: {breast: 1}}\n", 3, "rate", "every cancer"),
        ("  - {name: spread, status: literature}\n", 3, "spread", "source"),
        ("  - {name: spread, quantiles: {0.05: 1, 0.95: 2}}\n", 3, "spread", "quantiles"),
    ],
)
def test_a_wrong_overlay_is_one_problem_with_its_place(tmp_path, text, row, field, word):
    (problem,) = refused(lambda: PriorSet.load(folder(tmp_path), overlay(tmp_path, text)))
    assert (problem.file, problem.row) == ("overlay.yaml", row)
    assert field in problem.field and word in str(problem)


def test_all_problems_of_an_overlay_come_at_once(tmp_path):
    text = "  - {name: folt, median: 3}\n  - {name: rate, log_sd: 0}\n"
    assert len(refused(lambda: PriorSet.load(folder(tmp_path), overlay(tmp_path, text)))) == 2


def test_an_overlay_without_its_list_is_refused(tmp_path):
    path = tmp_path / "overlay.yaml"
    path.write_text("format: 1\nparameter: []\n", encoding="utf-8")
    (problem,) = refused(lambda: PriorSet.load(folder(tmp_path), path))
    assert problem.file == "overlay.yaml" and "parameters" in str(problem)


# ---- wrong files


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("log_sd: 0.3", "log_sd: wide", "log_sd"),
        ("    median: 2\n", "", "median"),
        ("family: halfnormal", "family: cauchy", "cauchy"),
        ("status: literature", "status: guess", "guess"),
        ("    shift: 1\n", "    shift: 1\n    bounds: [0, 1]\n", "truncated"),
        ("pooling: cancer", "pooling: study", "pooling"),
        ("between_sd: spread\n    status: weak\n    rationale: made for this test\n  - name: fold",
         "status: weak\n    rationale: made for this test\n  - name: fold", "between_sd"),
        ("    rationale: made for this test\n  - name: rate", "  - name: rate", "rationale"),
    ],
)  # fmt: skip
def test_a_wrong_prior_file_is_refused_with_its_row(tmp_path, old, new, word):
    assert EXAMPLE.count(old) >= 1
    problems = refused(lambda: PriorSet.load(folder(tmp_path, EXAMPLE.replace(old, new, 1))))
    assert any(word in str(p) and p.file == "example.yaml" and p.row for p in problems), [str(p) for p in problems]


def test_two_definitions_and_an_unknown_spread_are_refused(tmp_path):
    again = EXAMPLE[EXAMPLE.index("  - name: fold") : EXAMPLE.index("  - name: shift_of_study")]
    (problem,) = refused(lambda: PriorSet.load(folder(tmp_path, EXAMPLE + again)))
    assert "defined twice" in str(problem) and problem.row
    text = EXAMPLE.replace("between_sd: spread", "between_sd: spraed")
    assert all("spraed" in str(p) for p in refused(lambda: PriorSet.load(folder(tmp_path, text))))


def test_a_folder_without_priors_is_refused(tmp_path):
    (problem,) = refused(lambda: PriorSet.load(tmp_path))
    assert "no priors" in str(problem)
