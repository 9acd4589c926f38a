"""Where the full model differs from the core: P(SRE by 24 months) at the centre of the priors, every regimen of the list.

uv run python benchmarks/core_and_full.py
"""

import jax
import jax.numpy as jnp
import numpy as np

from osteobayes.cycle import Cell, Regimen
from osteobayes.fit.run import Settings, build_model
from osteobayes.paths import shipped
from osteobayes.precision import jit
from osteobayes.predict import POPULATIONS, Scenario, _question, _simulate_chunk

NEAR = ("placebo", "denosumab", "zoledronic acid", "pamidronate", "ibandronate", "clodronate", "no backbone")
"""Antiresorptives and backbones in every cancer."""
ALSO = {
    "breast": ("exemestane", "docetaxel", "everolimus + exemestane"),
    "prostate": ("radium-223", "radium-223 + denosumab", "enzalutamide", "abiraterone", "docetaxel", "strontium-89"),
    "lung": ("docetaxel",),
}
MODULES = ("pembrolizumab", "fresolimumab", "galunisertib", "denosumab + pembrolizumab", "bevacizumab", "cabozantinib")


def main() -> None:
    """Print both probabilities and their difference."""
    probabilities = {}
    for variant in ("core", "full"):
        model = build_model(shipped("datasets"), shipped("priors"), None, Settings(select="core", model=variant))
        scenarios = [
            Scenario(Cell(cancer, Regimen.parse(r, model.catalogue)), POPULATIONS[cancer])
            for cancer in ALSO
            for r in (*NEAR, *ALSO[cancer], *MODULES)
        ]
        hyper = model.data["hyper"]
        values = model.values(model.priors.centre(model.coords, hyper), model.data)
        draws = {n: jnp.asarray(values[n])[None] for n in values if model.priors[n].sampled}
        run = jit(lambda fixed, draws, model=model: _simulate_chunk(model, fixed, draws))
        found, _ = run(_question(model, scenarios, 24.0), draws)
        probabilities[variant] = np.asarray(found["p_sre"])[0]
        jax.clear_caches()
    print(f"{'cancer':9s}{'regimen':52s}  core   full   difference")
    for i, s in enumerate(scenarios):
        a, b = (probabilities[v][i] for v in ("core", "full"))
        print(f"{s.cell.cancer:9s}{str(s.cell.regimen)[:50]:52s} {a:.3f}  {b:.3f}  {b - a:+.3f}")


if __name__ == "__main__":
    main()
