"""Samplers in memory: that of `calibrate` on either back end, NumPyro's and PyMC's, nutpie, BlackJAX, three approximations."""

# samplers return untyped trees
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportIndexIssue=false

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

from osteobayes.errors import OsteobayesError, RunError
from osteobayes.fit import start
from osteobayes.fit.diagnose import K_LIMIT, importance
from osteobayes.fit.posterior import Posterior
from osteobayes.fit.result import labelled
from osteobayes.fit.run import Run, Settings, draws_of, find_start, sample, search
from osteobayes.fit.workers import cores, in_threads
from osteobayes.model import Model
from osteobayes.model.transform import constrain, unconstrain
from osteobayes.precision import jit
from osteobayes.schema import did_you_mean

SPREAD = 0.7
"""Chains start at draws of the Laplace approximation whose standard deviations are this share of its own."""


@dataclass(frozen=True)
class Task:
    """What a sampler is asked for, and where it may begin."""

    model: Model
    draws: int
    tune: int
    chains: int
    seed: int
    target: float
    report: Callable[[str], None]

    @cached_property
    def data(self) -> dict[str, Any]:
        """Data of the compiled functions."""
        return self.model.sampling_data

    @cached_property
    def sampler(self) -> Any:
        """The compiled density in unconstrained space."""
        sampler = self.settings.sampler(self.model)
        sampler.compile(self.data, ("gradients",))
        return sampler

    @property
    def settings(self) -> Settings:
        """Settings of the search for optima, and of the sampler of `calibrate`."""
        return Settings(
            chains=self.chains, draws=self.draws, tune=self.tune, seed=self.seed, target=self.target, processes=1,
            method=self.model.method, block=min(Settings.block, self.draws),
        )  # fmt: skip

    @cached_property
    def optima(self) -> list[start.Optimum]:
        """Optima of a multi-start search, best Laplace weight first."""
        found = search(self.sampler, self.data, self.settings, self.report)
        names = ("optima", "log_density", "covariance", "log_weight", "found")
        return [start.Optimum(*x) for x in zip(*(found[n] for n in names), strict=True)]

    @cached_property
    def begin(self) -> np.ndarray:
        """Where chains begin [chain, parameter], unconstrained: over the modes in turn, spread by their covariances."""
        modes = start.mode_of_chain(self.optima, self.chains)
        rng = np.random.default_rng(self.seed)
        size = len(self.optima[0].z)
        roots = {m: np.linalg.cholesky(self.optima[m].covariance) for m in set(modes)}
        return np.stack([self.optima[m].z + SPREAD * roots[m] @ rng.normal(size=size) for m in modes])

    @cached_property
    def log_density(self) -> Callable[[Any], Any]:
        """Log density of a flat unconstrained vector (not compiled)."""
        from numpyro.infer.util import potential_energy

        from osteobayes.model.emit import numpyro_model

        sampler, emitted, data = self.sampler, numpyro_model(self.model), self.data
        return lambda z: -jnp.asarray(potential_energy(emitted, (data,), {}, sampler.unravel(z)))

    def tree(self, z: np.ndarray, stats: dict[str, np.ndarray] | None = None) -> xr.DataTree:
        """Draws [chain, draw, parameter] in unconstrained space as a DataTree of the emitted sites."""
        flat = jnp.asarray(z.reshape(-1, z.shape[-1]))
        sites = jax.vmap(lambda x: constrain(self.model.sampled, self.sampler.unravel(x)))(flat)
        shaped = {n: np.asarray(x).reshape(*z.shape[:2], *x.shape[1:]) for n, x in sites.items()}
        groups = {
            "posterior": labelled(self.model, shaped, ("chain", "draw"), True),
            "sample_stats": xr.Dataset({k: (("chain", "draw"), v) for k, v in (stats or {}).items()}),
        }
        return xr.DataTree.from_dict({f"/{k}": v for k, v in groups.items()})

    def weighed(self, z: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
        """Pareto k of the importance ratios of approximate draws [draw, parameter], and their effective number."""
        log_p = -self.sampler.values_and_grads(z, self.data, cores())[0]
        k, effective = importance(np.where(np.isfinite(log_p), log_p - log_q, -1e6))
        return {"pareto_k": k, "effective_draws": effective}


def in_blocks(task: Task, potential: Callable[..., Any] | None = None) -> xr.DataTree:
    """The sampler of `calibrate`: its start, coordinates, warm-up and kernel; ``potential``: of another emission than NumPyro's.

    Draws and warm-up iterations are rounded to whole blocks. Blocks lie in a temporary folder meanwhile.
    """
    sampler = task.settings.sampler(task.model, potential)
    sampler.compile(task.data)
    with TemporaryDirectory() as folder:
        run = Run(Path(folder), {"model": task.model})
        (run.path / "blocks").mkdir()
        find_start(run, sampler, task.data, task.settings, task.report)
        with in_threads(sampler, task.data, cores()) as chains:
            sample(run, sampler, chains, task.data, task.settings, lambda done, total, text: None)
        z, stats = draws_of(run)
    return task.tree(z, {"diverging": stats["diverging"], "n_steps": stats["n_steps"], "energy": stats["energy"]})


def in_blocks_pymc(task: Task) -> xr.DataTree:
    """The sampler of `calibrate` on PyMC's own log density."""
    from osteobayes.model.emit_pymc import potential

    return in_blocks(task, potential(task.model.pymc()))


def nuts_numpyro(task: Task) -> xr.DataTree:
    """NumPyro's NUTS with a dense metric that begins at the Laplace covariance."""
    import arviz as az
    from numpyro.infer import MCMC, NUTS

    emitted = task.model.numpyro()
    names = tuple(sorted(task.model.sampled))
    kernel = NUTS(
        emitted, target_accept_prob=task.target, dense_mass=[names], max_tree_depth=8,
        inverse_mass_matrix={names: jnp.asarray(task.optima[0].covariance)},
    )  # fmt: skip
    mcmc = MCMC(
        kernel, num_warmup=task.tune, num_samples=task.draws, num_chains=task.chains, chain_method="sequential", progress_bar=False
    )  # fmt: skip
    first = jax.vmap(task.sampler.unravel)(jnp.asarray(task.begin))
    if task.chains == 1:
        first = jax.tree.map(lambda x: x[0], first)
    mcmc.run(
        jax.random.PRNGKey(task.seed), task.data, init_params=first, extra_fields=("diverging", "num_steps", "energy")
    )
    return az.from_numpyro(mcmc, coords=task.model.labels, log_likelihood=False)


def _pymc_start(task: Task, emitted: Any) -> list[dict[str, np.ndarray]]:
    sites = [constrain(task.model.sampled, task.sampler.unravel(jnp.asarray(z))) for z in task.begin]
    return [{rv.name: np.asarray(x[rv.name]) for rv in emitted.free_RVs} for x in sites]


def nuts_pymc(task: Task) -> xr.DataTree:
    """The PyMC model under NumPyro's NUTS, through `pm.sample` (diagonal metric)."""
    import pymc as pm

    emitted = task.model.pymc()
    with emitted:
        return pm.sample(
            draws=task.draws, tune=task.tune, chains=task.chains, random_seed=task.seed, target_accept=task.target,
            nuts_sampler="numpyro", nuts_sampler_kwargs={"chain_method": "sequential"}, progressbar=False,
            initvals=_pymc_start(task, emitted), compute_convergence_checks=False,
        )  # fmt: skip


def nutpie_pymc(task: Task) -> xr.DataTree:
    """Nutpie with the JAX back end and a low-rank metric, on the PyMC model."""
    try:
        import nutpie
    except ImportError as error:
        raise OsteobayesError("sampler `nutpie` needs the package nutpie: pip install 'osteobayes[nutpie]'") from error
    emitted = task.model.pymc()
    compiled = nutpie.compile_pymc_model(
        emitted, backend="jax", gradient_backend="jax", initial_points=_pymc_start(task, emitted)[0]
    )
    return nutpie.sample(
        compiled, draws=task.draws, tune=task.tune, chains=task.chains, cores=min(task.chains, cores()), seed=task.seed,
        target_accept=task.target, adaptation="low_rank", progress_bar=False, save_warmup=False,
    )  # fmt: skip


def nuts_blackjax(task: Task) -> xr.DataTree:
    """BlackJAX's NUTS on the density, in coordinates whitened by the Laplace covariance, with window adaptation."""
    try:
        import blackjax
    except ImportError as error:
        raise OsteobayesError("sampler `blackjax-nuts` needs blackjax: pip install 'osteobayes[blackjax]'") from error
    best = task.optima[0]
    root = jnp.asarray(np.linalg.cholesky(best.covariance))
    centre, log_density = jnp.asarray(best.z), task.log_density

    def density(u: Any) -> Any:
        return log_density(centre + root @ u)

    warm_up = blackjax.window_adaptation(
        blackjax.nuts, density, is_mass_matrix_diagonal=False, target_acceptance_rate=task.target, initial_step_size=0.1
    )

    def chain(key: Any, u: Any) -> tuple[Any, Any]:
        first, then = jax.random.split(key)
        (state, parameters), _ = warm_up.run(first, u, num_steps=task.tune)
        kernel = blackjax.nuts(density, **parameters).step

        def step(state: Any, key: Any) -> tuple[Any, Any]:
            state, info = kernel(key, state)
            return state, (state.position, info.is_divergent, info.num_integration_steps, info.energy)

        return jax.lax.scan(step, state, jax.random.split(then, task.draws))[1]

    run = jit(chain)
    keys = jax.random.split(jax.random.key(task.seed), task.chains)
    found = [
        jax.tree.map(np.asarray, run(k, jnp.linalg.solve(root, jnp.asarray(z) - centre)))
        for k, z in zip(keys, task.begin, strict=True)
    ]
    u, diverging, steps, energy = (np.stack(x) for x in zip(*found, strict=True))
    z = np.asarray(centre) + u @ np.asarray(root).T
    return task.tree(z, {"diverging": diverging, "n_steps": steps, "energy": energy})


def laplace(task: Task) -> tuple[xr.DataTree, dict[str, float]]:
    """Normal approximations at the optima, mixed by their Laplace weights."""
    rng = np.random.default_rng(task.seed)
    n = task.chains * task.draws
    weights = start.weights(task.optima)
    which = rng.choice(len(weights), size=n, p=weights)
    roots = [np.linalg.cholesky(o.covariance) for o in task.optima]
    z = np.stack([task.optima[m].z + roots[m] @ rng.normal(size=len(task.optima[m].z)) for m in which])
    log_q = []
    for o, root, w in zip(task.optima, roots, weights, strict=True):
        u = np.linalg.solve(root, (z - o.z).T)
        log_q.append(np.log(w + 1e-300) - 0.5 * (u**2).sum(axis=0) - np.log(np.diag(root)).sum())
    q = np.logaddexp.reduce(np.stack(log_q), axis=0) - 0.5 * z.shape[1] * np.log(2 * np.pi)
    return task.tree(z.reshape(task.chains, task.draws, -1)), task.weighed(z, q)


def pathfinder(task: Task) -> tuple[xr.DataTree, dict[str, float]]:
    """One path of Pathfinder (Zhang et al. 2022) for each chain, by BlackJAX, from draws of the prior."""
    try:
        from blackjax.vi import pathfinder as path
    except ImportError as error:
        raise OsteobayesError("sampler `pathfinder` needs blackjax: pip install 'osteobayes[blackjax]'") from error
    model, log_density = task.model, task.log_density

    def one(key: Any, z: Any) -> Any:
        first, then = jax.random.split(key)
        state, _ = path.approximate(first, log_density, z, maxiter=task.settings.search_iterations, num_samples=25)
        return path.sample(then, state, task.draws)

    run = jit(one)
    found = []
    for c in range(task.chains):
        key = jax.random.key(task.seed * 1000 + c)
        sites = model.draw_prior(key, task.data)
        z = ravel_pytree(unconstrain(model.sampled, {n: sites[n] for n in model.sampled}))[0]
        found.append(jax.tree.map(np.asarray, run(key, 0.7 * z)))
    z, q = (np.stack(x) for x in zip(*found, strict=True))
    return task.tree(z), task.weighed(z.reshape(-1, z.shape[-1]), q.reshape(-1))


def svi(task: Task) -> tuple[xr.DataTree, dict[str, float]]:
    """Variational inference with a full normal in unconstrained space (NumPyro), from the best optimum."""
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal
    from numpyro.infer.initialization import init_to_value
    from numpyro.optim import Adam

    best = task.optima[0]
    sites = constrain(task.model.sampled, task.sampler.unravel(jnp.asarray(best.z)))
    guide = AutoMultivariateNormal(task.model.numpyro(), init_loc_fn=init_to_value(values=sites), init_scale=0.1)
    run = SVI(task.model.numpyro(), guide, Adam(0.01), Trace_ELBO(num_particles=2))
    state = run.init(jax.random.PRNGKey(task.seed), task.data)
    parameters = run.get_params(state)
    parameters["auto_scale_tril"] = jnp.asarray(np.linalg.cholesky(best.covariance))
    found = run.run(
        jax.random.PRNGKey(task.seed), task.tune * 4, task.data, progress_bar=False, init_params=parameters
    ).params
    law = guide.get_posterior(found)
    z = law.sample(jax.random.PRNGKey(task.seed + 1), (task.chains * task.draws,))
    q = np.asarray(law.log_prob(z))
    return task.tree(np.asarray(z).reshape(task.chains, task.draws, -1)), task.weighed(np.asarray(z), q)


SAMPLERS: dict[tuple[str, str], Callable[[Task], Any]] = {
    ("numpyro", "calibrate"): in_blocks,
    ("numpyro", "nuts"): nuts_numpyro,
    ("numpyro", "blackjax-nuts"): nuts_blackjax,
    ("numpyro", "pathfinder"): pathfinder,
    ("numpyro", "laplace"): laplace,
    ("numpyro", "svi"): svi,
    ("pymc", "calibrate"): in_blocks_pymc,
    ("pymc", "nuts"): nuts_pymc,
    ("pymc", "nutpie"): nutpie_pymc,
}
"""Functions by back end and sampler; those that return a pair are approximations, with what their importance ratios say."""

APPROXIMATIONS = (("numpyro", "laplace"), ("numpyro", "pathfinder"), ("numpyro", "svi"))


def fit(
    model: Model,
    backend: str = "numpyro",
    sampler: str = "calibrate",
    draws: int = 1000,
    tune: int = Settings.tune,
    chains: int = Settings.chains,
    seed: int = 0,
    target: float = Settings.target,
    report: Callable[[str], None] = lambda text: None,
) -> Posterior:
    """Sample a model in memory with a sampler of your choice; the default is that of `calibrate`, which has a run folder beside.

    Parameters
    ----------
    model
        The model.
    backend, sampler
        ``numpyro`` with ``calibrate``, ``nuts``, ``blackjax-nuts``, ``pathfinder``, ``laplace`` or ``svi``; ``pymc`` with
        ``calibrate``, ``nuts`` or ``nutpie``.
    draws, tune, chains, seed, target
        Draws and warm-up iterations a chain (steps of ``svi``: four times ``tune``), chains, seed, target acceptance.
    report
        Called with sentences.

    Returns
    -------
    Posterior
        Approximations (``pathfinder``, ``laplace``, ``svi``) may be used only where Pareto k of their importance ratios is
        below 0.7; their diagnostics have ``pareto_k`` and ``effective_draws``.

    Raises
    ------
    OsteobayesError
        Unknown back end or sampler, or a package that is not installed.
    RunError
        If no start of the search reached a finite density.
    """
    if (backend, sampler) not in SAMPLERS:
        backends = dict.fromkeys(b for b, _ in SAMPLERS)
        known = [s for b, s in SAMPLERS if b == backend]
        if not known:
            raise OsteobayesError(f"no back end is called {backend!r}; {did_you_mean(backend, backends)}")
        raise OsteobayesError(f"back end {backend} has no sampler {sampler!r}; it has {', '.join(known)}")
    if min(draws, tune, chains) < 1:
        raise RunError("draws, tune and chains must be at least 1")
    task = Task(model, draws, tune, chains, seed, target, report)
    report("compiling (about one minute on two cores)")
    found = SAMPLERS[backend, sampler](task)
    if isinstance(found, xr.DataTree):
        return Posterior.of(model, found, seed)
    tree, ratios = found
    posterior = Posterior.of(model, tree, seed)
    usable = ratios["pareto_k"] < K_LIMIT
    sentence = (
        f"{sampler} is an approximation: Pareto k of its importance ratios is {ratios['pareto_k']:.2f} (limit {K_LIMIT}), "
        f"so it {'may' if usable else 'may not'} stand for the posterior."
    )
    posterior.diagnostics.update(usable=usable, sentence=sentence, **ratios)
    return posterior
