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
    """One row per latent: verdict, numbers, strongest contexts with their peaks marked.

    Two columns only, so that it can be read in 80 characters.
    """
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("latent", no_wrap=True)
    table.add_column("numbers with intervals; strongest contexts (peak token marked)", ratio=1)
    for latent, row in zip(latents.index, latents.to_dict("records"), strict=True):
        share = row["template_share"]
        markup = "" if share != share else f", {share:.0%} markup"  # NaN: no masks in the tokens
        numbers = Text(
            f"ν error {_with_interval(row, 'nu_error')}  "
            f"ν recon {_with_interval(row, 'nu_reconstruction')}  Δ {row['delta']:.2f}\n"
            f"q {row['q_specific']:.3f}, {row['active_tokens']:,} tokens{markup}"
        )
        table.add_row(
            f"{latent}\n{row['verdict']}",
            Text("\n").join([numbers, *(_marked(c) for c in contexts.get(latent, []))]),
        )
    return table


def behaviour_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """For each labelled behaviour the best latent of each choice, its AUROC on held-out spans."""
    table = Table(title="Labelled behaviours and the latent that marks each", title_justify="left")
    for name in ("behaviour", "best of", "latent", "rank", "numbers", "AUROC"):
        table.add_column(name, no_wrap=name != "numbers")
    for row in rows:
        numbers = (
            f"ν error {_with_interval(row, 'nu_error')}\n"
            f"ν recon {_with_interval(row, 'nu_reconstruction')}\n"
            f"q {row['q_specific']:.3f} {row['verdict']}"
        )
        table.add_row(
            escape(str(row["behaviour"])),
            str(row["best_of"]),
            str(row["latent"]),
            str(row["rank"]),
            escape(numbers),
            f"{row['auroc']:.3f}",
        )
    return table


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _marked(context: Context) -> Text:
    def visible(text: str) -> str:
        return text.replace("\n", "↵")

    return Text.assemble(
        (f"{context.activation:6.1f}  ", "dim"),
        visible(context.before),
        (f"⟦{visible(context.peak)}⟧", "bold reverse"),
        visible(context.after),
    )
