"""Priors as data: ``priors/*.yaml`` becomes one ordered, sourced table; log density, sampling and transforms.

A *parameter* is what the model reads (natural scale). A *site* is what is sampled: a parameter of its own, or the common
part and the offsets of a pooled or study-level parameter. ``PriorSet.sites`` lists the sites for given coordinates,
``PriorSet.values`` turns site values into parameters. Hyperparameters travel as arrays (``PriorSet.hyper``), so changing a
number in a file does not compile anything again.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.scipy.stats as jstats
import numpy as np
import scipy.stats
from jax.scipy.special import gammaln
from jaxtyping import Array
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from osteobayes.errors import PriorError
from osteobayes.paths import shipped
from osteobayes.schema import CANCERS, Problem, did_you_mean, problems_of, read_model, read_yaml

Coordinates = Mapping[str, Sequence[str]]
Sites = dict[str, Array]
Hyper = dict[str, dict[str, Array]]
Number = float | dict[str, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriorSource(_Strict):
    """Where a prior's number comes from; ``patients`` names the patient set, so that a fitted set is refused."""

    citation: str
    where: str
    value: str
    patients: str | None = None


class Parameter(_Strict):
    """One parameter: meaning, unit, prior, provenance. Hyperparameters are on the natural scale."""

    name: str
    symbol: str
    meaning: str
    unit: str
    family: Literal["constant", "normal", "lognormal", "halfnormal", "beta", "effect"]
    value: Number | None = None
    mean: Number | None = None
    median: Number | None = None
    sd: float | None = Field(default=None, gt=0)
    log_sd: float | None = Field(default=None, gt=0)
    alpha: float | None = Field(default=None, gt=0)
    beta: float | None = Field(default=None, gt=0)
    quantiles: dict[float, float] | None = None
    shift: float = 0.0
    dims: tuple[str, ...] = ()
    pooling: Literal["none", "cancer"] = "none"
    between_sd: str | None = None
    centered: bool = True
    bounds: tuple[float | None, float | None] | None = None
    status: Literal["literature", "expert", "weak"]
    rationale: str
    sources: tuple[PriorSource, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> "Parameter":
        needs = {
            "constant": ("value",), "normal": ("mean", "sd"), "lognormal": ("median", "log_sd"), "halfnormal": ("sd",),
            "beta": ("alpha", "beta"), "effect": ("between_sd",),
        }[self.family]  # fmt: skip
        if self.quantiles is not None:
            if self.family not in ("normal", "lognormal") or len(self.quantiles) != 2:
                raise ValueError("quantiles: give exactly two, for a normal or lognormal prior")
        else:
            for field in needs:
                if getattr(self, field) is None:
                    raise ValueError(f"{field}: a {self.family} prior needs `{field}`")
        if self.status == "literature" and not self.sources:
            raise ValueError("sources: status `literature` needs a source; write `expert` or `weak` if there is none")
        if self.pooling == "cancer" and (self.between_sd is None or self.dims != ("cancer",)):
            raise ValueError("pooling: `cancer` needs dims [cancer] and `between_sd`")
        if self.bounds is not None:
            raise ValueError("bounds: truncated priors are not built yet; use lognormal, halfnormal or beta")
        for field in ("value", "mean", "median"):
            by_cancer = getattr(self, field)
            if isinstance(by_cancer, dict) and set(by_cancer) != set(CANCERS):
                raise ValueError(f"{field}: name every cancer once: {', '.join(CANCERS)}")
        return self

    @property
    def sampled(self) -> bool:
        """Whether the parameter has a prior distribution (not a constant)."""
        return self.family != "constant"


class PriorFile(_Strict):
    """One file of ``priors/``."""

    format: Literal[1]
    parameters: tuple[Parameter, ...]


class _TherapyPriors(_Strict):
    """One file of ``priors/therapies/`` as far as it concerns priors; its agents are read by the cycle."""

    format: Literal[1]
    parameters: tuple[Parameter, ...] = ()
    agents: tuple[Any, ...] = ()


def therapy_parameters(folder: str | Path) -> "dict[str, Parameter]":
    """Parameters of a folder of therapies alone (potencies of its agents).

    Raises
    ------
    PriorError
        All problems at once.
    """
    problems: list[Problem] = []
    parameters: dict[str, Parameter] = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        content, _, found = read_model(_TherapyPriors, path, path.name)
        problems += found
        parameters |= {p.name: p for p in content.parameters} if content else {}
    if problems:
        raise PriorError(problems)
    return parameters


def therapies_of(folder: Path) -> Path:
    """The therapies of a folder of priors: its own, or those that ship with the package."""
    own = folder / "therapies"
    return own if own.is_dir() else shipped("priors") / "therapies"


@dataclass(frozen=True)
class Site:
    """A named random variable: ``family`` normal, lognormal, halfnormal or beta, with dims of ``coords``."""

    name: str
    parameter: str
    family: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]


def _by_cancer(number: Number | None) -> np.ndarray:
    if isinstance(number, dict):
        return np.array([number[c] for c in CANCERS])
    return np.asarray(0.0 if number is None else number)


def location_scale(p: Parameter) -> tuple[np.ndarray, float]:
    """Mean (by cancer, or of all) and SD of a normal or lognormal prior, on the scale of the underlying normal."""
    if p.quantiles is not None:
        (q1, x1), (q2, x2) = sorted(p.quantiles.items())
        a, b = (np.log(x1 - p.shift), np.log(x2 - p.shift)) if p.family == "lognormal" else (x1, x2)
        z1, z2 = scipy.stats.norm.ppf([q1, q2])
        sd = (b - a) / (z2 - z1)
        return np.asarray(a - z1 * sd), float(sd)
    if p.family == "lognormal":
        return np.log(_by_cancer(p.median)), float(p.log_sd or 0.0)
    return _by_cancer(p.mean), float(p.sd or 0.0)


def _between_sd(p: Parameter, sites: Sites, hyper: Hyper) -> Array:
    """SD of a pooled parameter or study effect: sampled, or a constant (see :meth:`PriorSet.fix`)."""
    name = p.between_sd or ""
    return sites[name] if name in sites else hyper[name]["value"]


CENTRE = {
    "normal": lambda loc, scale: loc,
    "lognormal": lambda loc, scale: jnp.exp(loc),
    "halfnormal": lambda scale: scipy.stats.norm.ppf(0.75) * scale,
    "beta": lambda a, b: a / (a + b),
}
"""Centre of each family from its arguments."""


@dataclass(frozen=True)
class PriorSet:
    """All parameters by name, in file order."""

    parameters: dict[str, Parameter]
    folder: Path | None = None
    overlay: Path | None = None

    @classmethod
    def load(cls, folder: str | Path | None = None, overlay: str | Path | None = None) -> "PriorSet":
        """Read ``*.yaml`` of a folder (default: the shipped priors) and its therapies, then an overlay that changes some.

        Raises
        ------
        PriorError
            All problems at once: unknown field, missing hyperparameter, missing source, unknown name in an overlay.
        """
        folder = Path(folder) if folder is not None else shipped("priors")
        problems: list[Problem] = []
        parameters: dict[str, Parameter] = {}
        files = [(path, PriorFile) for path in sorted(folder.glob("*.yaml"))]
        if files:
            files += [(path, _TherapyPriors) for path in sorted(therapies_of(folder).glob("*.yaml"))]
        for path, kind in files:
            content, document, found = read_model(kind, path, path.name)
            problems += found
            for i, parameter in enumerate(content.parameters if content else ()):
                if parameter.name in parameters:
                    problems.append(
                        document.problem(("parameters", i, "name"), f"{parameter.name!r} is defined twice", "keep one")
                    )
                parameters[parameter.name] = parameter
        if not parameters and not problems:
            problems.append(Problem(str(folder), None, "", "no priors found", "give a folder with *.yaml files"))
        if overlay is not None and not problems:
            problems += _overlay(Path(overlay), parameters)
        for p in parameters.values():
            if p.between_sd is not None and p.between_sd not in parameters:
                problems.append(
                    Problem(
                        str(folder.name), None, p.name, f"between_sd `{p.between_sd}` is not a parameter", "define it"
                    )
                )
        if problems:
            raise PriorError(problems)
        return cls(parameters, folder, Path(overlay) if overlay is not None else None)

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[name]

    def __len__(self) -> int:
        return len(self.parameters)

    def fix(self, **constants: float) -> "PriorSet":
        """The same priors with some parameters fixed."""
        changed = dict(self.parameters)
        for name, value in constants.items():
            old = self.parameters[name]
            changed[name] = Parameter(
                name=name, symbol=old.symbol, meaning=old.meaning, unit=old.unit, family="constant", value=value,
                dims=old.dims, status="expert", rationale="fixed by the user",
            )  # fmt: skip
        return replace(self, parameters=changed)

    @cached_property
    def constants(self) -> dict[str, str]:
        """Constants and why they are constants."""
        return {n: p.rationale for n, p in self.parameters.items() if not p.sampled}

    def patients(self) -> dict[str, set[str]]:
        """Patient sets behind the priors: patient set -> parameters."""
        out: dict[str, set[str]] = {}
        for p in self.parameters.values():
            for source in p.sources:
                if source.patients:
                    out.setdefault(source.patients, set()).add(p.name)
        return out

    def sites(self, coords: Coordinates) -> dict[str, Site]:
        """Random variables for given coordinates, in file order, standard deviations before what they scale."""
        out: dict[str, Site] = {}
        scales = {p.between_sd for p in self.parameters.values()}
        for p in sorted(self.parameters.values(), key=lambda p: p.name not in scales):
            shape = tuple(len(coords[d]) for d in p.dims)
            if not p.sampled or 0 in shape:
                continue
            if p.family == "effect":
                name = p.name if p.centered else f"{p.name}_offset"
                out[name] = Site(name, p.name, "normal", p.dims, shape)
            elif p.pooling == "cancer":
                out[f"{p.name}_common"] = Site(f"{p.name}_common", p.name, "normal", (), ())
                level = f"{p.name}_deviation" if p.centered else f"{p.name}_offset"
                out[level] = Site(level, p.name, "normal", p.dims, shape)
            else:
                family = {"lognormal": "lognormal", "normal": "normal", "halfnormal": "halfnormal", "beta": "beta"}[
                    p.family
                ]
                out[p.name] = Site(p.name, p.name, family, p.dims, shape)
        return out

    def hyper(self, coords: Coordinates) -> Hyper:
        """Hyperparameters of every parameter as arrays: data of the compiled function."""
        out: Hyper = {}
        for p in self.parameters.values():
            shape = tuple(len(coords[d]) for d in p.dims)
            if p.family == "constant":
                out[p.name] = {"value": jnp.broadcast_to(jnp.asarray(_by_cancer(p.value), dtype=float), shape)}
            elif p.family in ("normal", "lognormal"):
                loc, scale = location_scale(p)
                out[p.name] = {
                    "loc": jnp.broadcast_to(jnp.asarray(loc, dtype=float), shape),
                    "scale": jnp.full(() if p.pooling == "cancer" else shape, scale),
                    "shift": jnp.asarray(float(p.shift)),
                }
            elif p.family == "halfnormal":
                out[p.name] = {"scale": jnp.full(shape, float(p.sd or 0.0))}
            elif p.family == "beta":
                out[p.name] = {"a": jnp.full(shape, float(p.alpha or 0.0)), "b": jnp.full(shape, float(p.beta or 0.0))}
            else:
                out[p.name] = {}
        return out

    def site_distribution(self, site: Site, values: Sites, hyper: Hyper) -> tuple[str, tuple[Any, ...]]:
        """Family and arguments of a site, given earlier sites (a centred effect depends on its SD)."""
        p = self.parameters[site.parameter]
        h = hyper[site.parameter]
        ones = np.ones(site.shape)  # NumPy: `values` may be symbols of PyTensor
        if p.family == "effect":
            return "normal", (0.0 * ones, _between_sd(p, values, hyper) * ones if p.centered else ones)
        if p.pooling == "cancer":
            if site.name.endswith("_common"):
                return "normal", (0.0 * ones, h["scale"] * ones)
            if p.centered:
                return "normal", (values[f"{p.name}_common"] * ones, _between_sd(p, values, hyper) * ones)
            return "normal", (0.0 * ones, ones)
        if p.family in ("normal", "lognormal"):
            return p.family, (h["loc"], h["scale"])
        if p.family == "halfnormal":
            return "halfnormal", (h["scale"],)
        return "beta", (h["a"], h["b"])

    def values(self, sites: Sites, hyper: Hyper, exp: Callable[[Any], Any] = jnp.exp) -> dict[str, Array]:
        """Parameters (natural scale) from site values; constants included, those of an empty dim left out (as in `sites`).

        ``exp``: the exponential of what the sites are (JAX arrays, or symbols of PyTensor).
        """
        out: dict[str, Array] = {}
        for p in self.parameters.values():
            h = hyper[p.name]
            if any(a.size == 0 for a in h.values()):
                continue
            if p.family == "constant":
                out[p.name] = h["value"]
            elif p.family == "effect":
                key = p.name if p.centered else f"{p.name}_offset"
                if key in sites:
                    out[p.name] = sites[key] if p.centered else sites[key] * _between_sd(p, sites, hyper)
            elif p.pooling == "cancer":
                if p.centered:
                    z = h["loc"] + sites[f"{p.name}_deviation"]
                else:
                    z = h["loc"] + sites[f"{p.name}_common"] + _between_sd(p, sites, hyper) * sites[f"{p.name}_offset"]
                out[p.name] = h["shift"] + exp(z) if p.family == "lognormal" else z
            else:
                out[p.name] = sites[p.name] + h["shift"] if p.family == "lognormal" else sites[p.name]
        return out

    def centre(self, coords: Coordinates, hyper: Hyper | None = None) -> Sites:
        """Every site at the centre of its prior: the median, of a beta its mean, given those before it."""
        hyper = self.hyper(coords) if hyper is None else hyper
        out: Sites = {}
        for name, site in self.sites(coords).items():
            family, args = self.site_distribution(site, out, hyper)
            out[name] = jnp.broadcast_to(jnp.asarray(CENTRE[family](*args), dtype=float), site.shape)
        return out

    def only(self, names: Iterable[str]) -> "PriorSet":
        """The parameters of these names, and the standard deviations that they need."""
        names = set(names)
        needed = names | {p.between_sd for n, p in self.parameters.items() if n in names and p.between_sd}
        return replace(self, parameters={n: p for n, p in self.parameters.items() if n in needed})

    def log_density(self, sites: Sites, hyper: Hyper, coords: Coordinates) -> dict[str, Array]:
        """Log prior density of each site (summed over its elements), on the natural scale of the site."""
        out = {}
        for name, site in self.sites(coords).items():
            family, args = self.site_distribution(site, sites, hyper)
            out[name] = log_density(family, args, sites[name]).sum()
        return out

    def sample(
        self,
        key: Array,
        hyper: Hyper,
        coords: Coordinates,
        names: Sequence[str] | None = None,
        given: Sites | None = None,
    ) -> Sites:
        """One draw of all sites (or of ``names``, given the others) from the prior.

        The random numbers of a site follow from its name, so that a parameter more or less leaves the others as they were.
        """
        out = dict(given or {})
        for name, site in self.sites(coords).items():
            if names is not None and name not in names:
                continue
            family, args = self.site_distribution(site, out, hyper)
            out[name] = draw(jax.random.fold_in(key, zlib.crc32(name.encode())), family, args, site.shape)
        return out

    def fingerprint(self) -> str:
        """Hash of all parameters."""
        text = "\n".join(p.model_dump_json() for p in self.parameters.values())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def table(self) -> list[dict[str, Any]]:
        """One row a parameter, for printing."""
        return [
            {
                "name": p.name,
                "meaning": p.meaning,
                "unit": p.unit,
                "prior": describe(p),
                "status": p.status,
                "sources": "; ".join(s.citation for s in p.sources),
            }
            for p in self.parameters.values()
        ]

    def __str__(self) -> str:
        sampled = [p for p in self.parameters.values() if p.sampled]
        count = {s: sum(p.status == s for p in sampled) for s in ("literature", "expert", "weak")}
        text = ", ".join(f"{v} {k}" for k, v in count.items())
        return f"{len(sampled)} parameters with a prior ({text}) and {len(self.parameters) - len(sampled)} constants"


def describe(p: Parameter) -> str:
    """The prior in words."""
    if p.family == "constant":
        return f"= {p.value}"
    if p.family == "effect":
        return f"Normal(0, {p.between_sd})"
    if p.quantiles:
        return f"{p.family} with quantiles {p.quantiles}"
    if p.family == "lognormal":
        body = f"LogNormal(median {p.median}, log-sd {p.log_sd})" + (f" + {p.shift:g}" if p.shift else "")
    elif p.family == "normal":
        body = f"Normal({p.mean}, {p.sd})"
    elif p.family == "halfnormal":
        body = f"HalfNormal({p.sd})"
    else:
        body = f"Beta({p.alpha:g}, {p.beta:g})"
    return body + (f", cancers vary with {p.between_sd}" if p.pooling == "cancer" else "")


def log_density(family: str, args: tuple[Array, ...], x: Array) -> Array:
    """Elementwise log density of a family on its natural scale."""
    if family == "normal":
        return jstats.norm.logpdf(x, *args)
    if family == "lognormal":
        return jstats.norm.logpdf(jnp.log(x), *args) - jnp.log(x)
    if family == "halfnormal":
        return jstats.norm.logpdf(x, 0.0, args[0]) + jnp.log(2.0)
    if family == "beta":
        a, b = args  # not jax's betaln: it is off by 1e-6 where a or b is 8 or more
        return (a - 1.0) * jnp.log(x) + (b - 1.0) * jnp.log1p(-x) + gammaln(a + b) - gammaln(a) - gammaln(b)
    raise ValueError(f"unknown family `{family}`")


def draw(key: Array, family: str, args: tuple[Array, ...], shape: tuple[int, ...]) -> Array:
    """One draw of a family."""
    if family == "beta":
        return jax.random.beta(key, args[0], args[1], shape)
    z = jax.random.normal(key, shape)
    if family == "halfnormal":
        return jnp.abs(z) * args[0]
    x = args[0] + args[1] * z
    return jnp.exp(x) if family == "lognormal" else x


def _overlay(path: Path, parameters: dict[str, Parameter]) -> list[Problem]:
    """Change ``parameters`` in place by an overlay file; what is not named stays. Returns the problems."""
    document = read_yaml(path, path.name)
    if document.problems:
        return list(document.problems)
    blocks = document.data.get("parameters") if isinstance(document.data, dict) else None
    if not isinstance(blocks, list):
        return [
            document.problem((), "there is no list `parameters`", "write `format: 1` and `parameters: [{name: ...}]`")
        ]
    problems: list[Problem] = []
    kept_with_new_family = {"name", "symbol", "meaning", "unit", "dims", "shift", "status", "rationale", "sources"}
    for i, block in enumerate(blocks):
        name = block.get("name") if isinstance(block, dict) else None
        if name not in parameters:
            problems.append(
                document.problem(
                    ("parameters", i, "name"), f"{name!r} is not a parameter", did_you_mean(str(name), parameters)
                )
            )
            continue
        old = parameters[name].model_dump(exclude_defaults=True)
        if "family" in block:
            old = {k: v for k, v in old.items() if k in kept_with_new_family}
        try:
            parameters[name] = Parameter.model_validate(old | block)
        except ValidationError as error:
            problems += [
                replace(p, file=path.name, row=document.line(("parameters", i)), field=f"{name}.{p.field}")
                for p in problems_of(error, document, Parameter)
            ]
    return problems
