"""`crossdiff report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.reporting.report import report_run
from sae_crossdiff.reporting.report_data import ReportConfig


@one_line_errors
def report(
    run: Annotated[Path, typer.Argument(help="output folder of `crossdiff train` or `demo`")],
    output: Annotated[
        Path | None, typer.Option(help="the file; report.html beside the latent table if left out")
    ] = None,
    crosscoder: Annotated[str, typer.Option(help="name, if the run has several")] = "",
    n_detailed: Annotated[
        int, typer.Option(help="latents with examples, histogram, lens and neighbours")
    ] = 1000,
    latent: Annotated[
        list[int] | None, typer.Option(help="another latent with examples; repeatable")
    ] = None,
    lens: Annotated[bool, typer.Option(help="logit lens; loads both models")] = True,
) -> None:
    """One HTML file about a run: overview, figures, a table of all latents, a page per latent.

    Works from disk without a network. Needs `crossdiff table` (or `demo`) to have run; shows
    what `crossdiff kl` found if it has. Every latent is in the table with its numbers; examples
    are in the file for the latents with a verdict of their own and the highest verdict scores.
    """
    config = ReportConfig(n_detailed=n_detailed, latents=tuple(latent or ()))
    with console.status("writing the report"):
        path = report_run(run, output, crosscoder, config, lens)
    size = path.stat().st_size / 1e6
    console.print(f"Report {path} ({size:.1f} MB): open it in a browser", soft_wrap=True)
