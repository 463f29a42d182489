"""`crossdiff stability`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.crosscoders import load_crosscoder
from sae_crossdiff.diffing import VERDICTS, load_table
from sae_crossdiff.diffing.stability import MIN_COSINE, AuditedRun, compare_runs
from sae_crossdiff.errors import CrossdiffError


@one_line_errors
def stability(
    folders: Annotated[
        list[Path],
        typer.Argument(help="crosscoder folders with latent_table.parquet inside or beside them"),
    ],
    verdict: Annotated[str, typer.Option(help="the verdict that should replicate")] = (
        "chat-specific"
    ),
    min_cosine: Annotated[float, typer.Option(help="least cosine of a match")] = MIN_COSINE,
    output: Annotated[
        Path | None, typer.Option(help="write all matches to this parquet file")
    ] = None,
) -> None:
    """Which verdicts replicate over seeds: match latents of several runs by their decoders.

    Train the same config with different seeds, audit each run with `crossdiff table`, then pass
    the crosscoders' folders, e.g. runs/a/batchtopk runs/b/batchtopk. Latents are matched one to
    one by the cosine of their joined decoder rows (Hungarian algorithm).
    """
    if verdict not in VERDICTS:
        raise CrossdiffError(f"no verdict {verdict!r}: use one of {', '.join(VERDICTS)}")
    runs = {str(folder): _load(folder) for folder in folders}
    summary, matches = compare_runs(runs, verdict, min_cosine)
    shown = Table(title=f"Latents judged {verdict}", title_justify="left")
    for name in summary.columns:
        shown.add_column(name.replace("_", " "), overflow="fold")
    for row in summary.to_dict("records"):
        shown.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(shown)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        matches.to_parquet(output)
        console.print("Matches", output, soft_wrap=True, markup=False)


def _load(folder: Path) -> AuditedRun:
    inside, beside = (f / "latent_table.parquet" for f in (folder, folder.parent))
    return AuditedRun(load_crosscoder(folder), load_table(inside if inside.exists() else beside))
