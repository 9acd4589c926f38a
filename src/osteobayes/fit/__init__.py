"""Fitting: Hamiltonian Monte Carlo in saved blocks, resume, and the stored result; other samplers, and draws that they gave, judged."""

from osteobayes.fit.posterior import Posterior
from osteobayes.fit.run import Run, Settings, calibrate, resume
from osteobayes.fit.samplers import fit

__all__ = ["Posterior", "Run", "Settings", "calibrate", "fit", "resume"]
