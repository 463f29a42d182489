"""Activating contexts, and what a table says in a terminal."""

from sae_crossdiff.reporting.contexts import Context, top_contexts
from sae_crossdiff.reporting.terminal import (
    behaviour_table,
    count_table,
    latent_rows,
    quality_table,
)

__all__ = [
    "Context",
    "behaviour_table",
    "count_table",
    "latent_rows",
    "quality_table",
    "top_contexts",
]
