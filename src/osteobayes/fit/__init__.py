"""Fitting: NUTS in saved blocks, resume, and the stored result."""

from osteobayes.fit.run import Run, Settings, calibrate, resume

__all__ = ["Run", "Settings", "calibrate", "resume"]
