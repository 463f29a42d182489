"""Activating examples, figures, the HTML report, exports, and what a table says in a terminal."""

from sae_crossdiff.reporting.contexts import Context, TokenTexts, top_contexts
from sae_crossdiff.reporting.example_files import load_examples, save_examples
from sae_crossdiff.reporting.examples import ExampleCollector, ExampleConfig
from sae_crossdiff.reporting.terminal import (
    behaviour_table,
    count_table,
    latent_rows,
    quality_table,
)

__all__ = [
    "Context",
    "ExampleCollector",
    "ExampleConfig",
    "TokenTexts",
    "behaviour_table",
    "count_table",
    "latent_rows",
    "load_examples",
    "quality_table",
    "save_examples",
    "top_contexts",
]
