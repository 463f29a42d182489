"""Activating examples, figures, the HTML report, exports, and what a table says in a terminal."""

from sae_crossdiff.reporting.contexts import Context, TokenTexts, top_contexts
from sae_crossdiff.reporting.example_files import load_examples, save_examples
from sae_crossdiff.reporting.examples import ExampleCollector, ExampleConfig
from sae_crossdiff.reporting.figures import (
    activation_histogram,
    delta_against_nu,
    kl_by_condition,
)
from sae_crossdiff.reporting.neuronpedia import to_neuronpedia
from sae_crossdiff.reporting.report import report_run, report_sources, write_report
from sae_crossdiff.reporting.report_data import ReportConfig, ReportSources
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
    "ReportConfig",
    "ReportSources",
    "TokenTexts",
    "activation_histogram",
    "behaviour_table",
    "count_table",
    "delta_against_nu",
    "kl_by_condition",
    "latent_rows",
    "load_examples",
    "quality_table",
    "report_run",
    "report_sources",
    "save_examples",
    "to_neuronpedia",
    "top_contexts",
    "write_report",
]
