"""`crossdiff table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.diffing import VerdictThresholds
from sae_crossdiff.reporting.audit import audit_run


@one_line_errors
def table(
    run: Annotated[Path, typer.Argument(help="output folder of `crossdiff train`")],
    n_tokens: Annotated[
        int, typer.Option(help="tokens to audit on; kept in memory, sum(d_ins) * 2 bytes each")
    ] = 500_000,
    device: Annotated[str, typer.Option(help="cpu or cuda; the run's own if left out")] = "",
    text: Annotated[
        list[str] | None, typer.Option(help="other plain text than the run's; repeatable")
    ] = None,
    dialogues: Annotated[
        list[str] | None, typer.Option(help="other dialogues than the run's; repeatable")
    ] = None,
    nu_error: Annotated[float, typer.Option(help="threshold against Complete Shrinkage")] = 0.2,
    nu_reconstruction: Annotated[float, typer.Option(help="threshold against Decoupling")] = 0.5,
    min_active: Annotated[int, typer.Option(help="fewer active tokens: undecided")] = 30,
) -> None:
    """Audit every latent of a run's crosscoders: writes latent_table.parquet for each.

    One pass over both models: decoder norms, all betas and nus of Latent Scaling, firing
    statistics, verdicts. Prints the counts and the most chat-specific latents.
    """
    thresholds = VerdictThresholds(
        nu_error=nu_error, nu_reconstruction=nu_reconstruction, min_active=min_active
    )
    audit_run(run, console, thresholds, n_tokens, text or [], dialogues or [], device)
