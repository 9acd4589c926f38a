"""The evidence: reads `datasets/`, checks it, and prints itself as a network."""

from osteobayes.evidence.load import Evidence, validate

__all__ = ["Evidence", "validate"]
