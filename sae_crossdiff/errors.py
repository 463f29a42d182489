"""One exception for everything a user can put right."""

from __future__ import annotations


class CrossdiffError(ValueError):
    """Input that cannot be right. The message is one line: what is wrong, and the remedy."""
