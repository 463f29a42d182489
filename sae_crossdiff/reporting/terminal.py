"""What a table says, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sae_crossdiff.diffing import VERDICTS
from sae_crossdiff.diffing.norms import BUCKETS
from sae_crossdiff.reporting.contexts import Context


def quality_table(quality: Mapping[str, Any], title: str) -> Table:
    """FVE per model, L0, dead share."""
    table = Table(title=title, title_justify="left")
    for name in quality["fve"]:
        table.add_column(f"FVE {name}", justify="right")
    for name in ("L0", "dead latents", "tokens"):
        table.add_column(name, justify="right")
    table.add_row(
        *(f"{value:.3f}" for value in quality["fve"].values()),
        f"{quality['l0']:.1f}",
        f"{quality['dead_share']:.1%}",
        f"{quality['tokens']:,}",
    )
    return table


def count_table(latents: pd.DataFrame) -> Table:
    """How many latents are in each norm bucket and have each verdict, and what chance passes."""
    table = Table(title=f"{len(latents):,} latents", title_justify="left", caption_justify="left")
    table.caption = "\n".join(
        f"{kind} made-up latents that would pass: {counts['by_interval']:,} of "
        f"{counts['tested']:,} (by their nus alone, without intervals: {counts['by_point']:,})"
        for kind, counts in latents.attrs.get("nulls", {}).items()
    )
    table.add_column("by decoder norm")
    table.add_column("", justify="right")
    table.add_column("verdict")
    table.add_column("", justify="right")
    buckets = latents["bucket"].value_counts()
    verdicts = latents["verdict"].value_counts()
    for i in range(max(len(BUCKETS), len(VERDICTS))):
        left = (BUCKETS[i], f"{buckets.get(BUCKETS[i], 0):,}") if i < len(BUCKETS) else ("", "")
        table.add_row(*left, VERDICTS[i], f"{verdicts.get(VERDICTS[i], 0):,}")
    return table


def latent_rows(
    latents: pd.DataFrame,
    contexts: Mapping[int, Sequence[Context]],
    title: str,
) -> Table:
    """One row per latent with its numbers and its strongest contexts, peaks marked."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("latent", "Δ", "ν error", "ν recon", "q", "tokens", "markup", "verdict"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("strongest contexts (peak token marked)", ratio=1)
    for latent, row in zip(latents.index, latents.to_dict("records"), strict=True):
        shown = Text("\n").join(_marked(c) for c in contexts.get(latent, []))
        share = row["template_share"]
        table.add_row(
            str(latent),
            f"{row['delta']:.2f}",
            _with_interval(row, "nu_error"),
            _with_interval(row, "nu_reconstruction"),
            f"{row['q_specific']:.3f}",
            f"{row['active_tokens']:,}",
            "–" if share != share else f"{share:.0%}",  # NaN: the tokens carry no masks
            str(row["verdict"]),
            shown,
        )
    return table


def behaviour_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For each labelled behaviour the best latent and its AUROC on held-out tokens."""
    table = Table(title="Labelled behaviours and the latent that marks each", title_justify="left")
    for name in ("behaviour", "latent", "rank", "verdict", "ν error", "ν recon", "q", "AUROC"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            escape(str(row["behaviour"])),
            str(row["latent"]),
            str(row["rank"]),
            str(row["verdict"]),
            _with_interval(row, "nu_error"),
            _with_interval(row, "nu_reconstruction"),
            f"{row['q_specific']:.3f}",
            f"{row['auroc']:.3f}",
        )
    return table


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f}\n{low:.2f} to {high:.2f}"


def _marked(context: Context) -> Text:
    def visible(text: str) -> str:
        return text.replace("\n", "↵")

    return Text.assemble(
        (f"{context.activation:6.1f}  ", "dim"),
        visible(context.before),
        (f"⟦{visible(context.peak)}⟧", "bold reverse"),
        visible(context.after),
    )
