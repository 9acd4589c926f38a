"""Joins trajectories, hazards, statistics and priors into one density, and simulates studies from it."""

from osteobayes.model.joint import Data, Model
from osteobayes.model.trial import SimulatedTrial, TrialSimulator, simulate_trial

__all__ = ["Data", "Model", "SimulatedTrial", "TrialSimulator", "simulate_trial"]
