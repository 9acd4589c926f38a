"""With all outcomes at weight 0 the sampler gives the declared priors back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from osteobayes.fit import Run, Settings
from osteobayes.fit.run import draws_of, find_start, sample
from osteobayes.fit.workers import in_threads
from osteobayes.model.transform import constrain

LAWS = {
    "normal": scipy.stats.norm.cdf,
    "lognormal": lambda x, mu, sd: scipy.stats.norm.cdf((np.log(x) - mu) / sd),
    "halfnormal": lambda x, sd: 2.0 * scipy.stats.norm.cdf(x / sd) - 1.0,
    "beta": scipy.stats.beta.cdf,
}
THIN = 10


@pytest.mark.slow
def test_sampling_without_outcomes_gives_the_priors(tiny_model, tmp_path):
    """Kolmogorov-Smirnov of every scalar's place in its declared law (given its hyperparameters), 4 chains x 500 draws, every
    10th: about 1 seed in 100 fails by chance (level 0.01 over all scalars, Bonferroni), a little more where draws that far
    apart still hang together.
    """
    settings = Settings(draws=500, tune=225, seed=20261126, starts=2)
    data = tiny_model.sampling_data
    data = data | {"weights": jax.tree.map(jnp.zeros_like, data["weights"])}
    sampler = settings.sampler(tiny_model)
    sampler.compile(data)
    (tmp_path / "blocks").mkdir()
    run = Run(tmp_path, {"model": tiny_model})
    find_start(run, sampler, data, settings, lambda text: None)
    with in_threads(sampler, data, 2) as chains:
        sample(run, sampler, chains, data, settings, lambda done, total, text: None)
    draws, stats = draws_of(run)
    assert stats["diverging"].mean() < 0.001
    kept = jnp.asarray(draws[:, ::THIN].reshape(-1, draws.shape[-1]))
    sites = jax.vmap(lambda z: constrain(tiny_model.sampled, sampler.unravel(z)))(kept)

    def arguments(sites):
        full = sites | data["fixed"]
        return {
            n: [jnp.broadcast_to(a, full[n].shape) for a in tiny_model.priors.site_distribution(s, full, data["hyper"])[1]]
            for n, s in tiny_model.sampled.items()
        }  # fmt: skip

    given = jax.vmap(arguments)(sites)
    p = {}
    for name, site in tiny_model.sampled.items():
        place = LAWS[site.family](np.asarray(sites[name]), *map(np.asarray, given[name]))
        for i, u in enumerate(place.reshape(len(kept), -1).T):
            p[f"{name}[{i}]"] = scipy.stats.kstest(u, "uniform").pvalue
    assert len(p) == draws.shape[-1]
    worst = min(p, key=p.get)
    print(f"{len(p)} scalars, least p {p[worst]:.2g} ({worst})")
    assert p[worst] > 0.01 / len(p), worst
