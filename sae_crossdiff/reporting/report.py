"""One self-contained HTML file about a run: `crossdiff report`."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sae_crossdiff.crosscoders import load_crosscoder
from sae_crossdiff.diffing import load_table
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair, load_tokenizer
from sae_crossdiff.provenance import Provenance
from sae_crossdiff.reporting.example_files import load_examples
from sae_crossdiff.reporting.overview import causal_results, overview
from sae_crossdiff.reporting.report_data import ReportConfig, ReportSources, report_payload
from sae_crossdiff.reporting.run_folder import chosen_crosscoder, table_path
from sae_crossdiff.training import CrosscoderRunnerConfig

HTML = Path(__file__).parent / "html"
SCRIPTS = ("payload", "elements", "state", "table", "scatter", "latent", "overview", "main")


def report_run(
    run: str | Path,
    output: Path | None = None,
    crosscoder: str = "",
    config: ReportConfig | None = None,
    lens: bool = True,
    pair: HookedModelPair | None = None,
) -> Path:
    """The report of a run that `crossdiff table` or `crossdiff demo` has audited.

    Args:
        output: the file; `report.html` beside the latent table if None.
        crosscoder, lens, pair: see `report_sources`.

    Raises:
        CrossdiffError: no run there, no table or examples yet, or ones of another pair.
    """
    sources = report_sources(run, crosscoder, lens, pair)
    return write_report(sources, output or sources.examples / "report.html", config)


def report_sources(
    run: str | Path, crosscoder: str = "", lens: bool = True, pair: HookedModelPair | None = None
) -> ReportSources:
    """What a run folder holds for `write_report` and `to_neuronpedia`.

    Args:
        crosscoder: which of the run's crosscoders; may be left out if there is one only.
        lens: load both models for the logit lens (else only the tokenizer).
        pair: the run's pair, if it is loaded already.
    """
    run = Path(run)
    runner = CrosscoderRunnerConfig.from_file(run / "runner_cfg.json")
    name = chosen_crosscoder(runner, crosscoder)
    path = table_path(run, runner, name)
    table = load_table(path)
    if lens and pair is None:
        pair = runner.load_pair()
    return ReportSources(
        table,
        load_crosscoder(run / name, runner.pair.device),
        path.parent,
        pair.tokenizer if pair is not None else load_tokenizer(runner.pair.chat),
        pair if lens else None,
        causal_results(run / name / "kl.parquet"),
    )


def write_report(
    sources: ReportSources, output: str | Path, config: ReportConfig | None = None
) -> Path:
    """Write the file; everything it needs is in it, and it asks no network for anything."""
    config = config or ReportConfig()
    _check_that_they_join(sources)
    payload = report_payload(sources, config)
    environment = Environment(
        loader=FileSystemLoader(HTML), autoescape=True, undefined=StrictUndefined
    )
    names = overview(sources.table, sources.crosscoder)["names"]
    html = environment.get_template("report.html.jinja").render(
        title=f"{names['base']} → {names['chat']}",
        style=Markup((HTML / "report.css").read_text("utf-8")),
        plotly=Markup(get_plotlyjs()),
        scripts=Markup("\n".join((HTML / f"{s}.js").read_text("utf-8") for s in SCRIPTS)),
        payload=payload,
    )
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(html, "utf-8")
    return output


def _check_that_they_join(sources: ReportSources) -> None:
    ours = Provenance.from_dict(sources.table.attrs["provenance"])
    examples = load_examples(sources.examples, [0], ["latent"])
    ours.check_joins(
        Provenance.from_dict(examples.attrs["provenance"]), "the latent table", "the examples"
    )
    theirs = Provenance.from_dict(sources.crosscoder.cfg.metadata.provenance)
    ours.check_joins(theirs, "the latent table", "the crosscoder")
    if len(sources.table) != sources.crosscoder.cfg.d_sae:
        raise CrossdiffError(
            f"the latent table has {len(sources.table):,} latents and the crosscoder "
            f"{sources.crosscoder.cfg.d_sae:,}: make the table again with `crossdiff table`"
        )
