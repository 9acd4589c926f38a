"""The joint model: priors, cycle, solver and observation models in one density, emitted to probabilistic languages."""

from osteobayes.model.joint import Data, Model

__all__ = ["Data", "Model"]
