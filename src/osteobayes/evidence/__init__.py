"""The evidence: reads `datasets/`, checks it, and prints itself as a network."""

from osteobayes.evidence.load import Evidence, validate
from osteobayes.evidence.uses import summary

__all__ = ["Evidence", "summary", "validate"]
