"""What interventions found, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sae_crossdiff.interventions import kl_table


def kl_rows(scores: pd.DataFrame, confidence: float = 0.95) -> Table:
    """One row per condition: KL with its interval, recovered share, and KL by position."""
    documents = scores["document"].nunique()
    table = Table(
        title=f"KL(chat ‖ patched), nats per token, means over {documents} documents "
        f"with {confidence:.0%} intervals",
        title_justify="left",
    )
    table.add_column("condition")
    for name in ("KL", "recovered", "opening", "first", "rest"):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[str, Any] = {g: kl_table(scores, g, confidence) for g in scores["group"].unique()}
    for condition, row in groups["all"].iterrows():
        others = [_mean(groups.get(g), condition) for g in ("opening", "first", "rest")]
        table.add_row(
            escape(str(condition)),
            _interval(row["kl"], row["low"], row["high"]),
            _interval(row["recovered"], row["recovered_low"], row["recovered_high"], percent=True),
            *others,
        )
    return table


def active_rows(
    active: Sequence[tuple[str, Sequence[tuple[int, float]]]], table: pd.DataFrame
) -> Table:
    """One row per token with its strongest latents and their verdicts."""
    out = Table(title="Active latents per token (f, verdict)", title_justify="left")
    out.add_column("token", no_wrap=True)
    out.add_column("latents, by f over their largest f", ratio=1)
    verdicts = table["verdict"].to_dict()
    for token, latents in active:
        parts = [_latent(j, f, str(verdicts[j])) for j, f in latents]
        out.add_row(Text(token.replace("\n", "↵")), Text("  ").join(parts))
    return out


def attribution_rows(
    latents: pd.DataFrame, table: pd.DataFrame, tokens: Sequence[str], title: str
) -> Table:
    """One row per latent that carries the next token's logit."""
    out = Table(title=title, title_justify="left")
    for name in ("latent", "verdict", "at token", "direct", "gradient", "exact"):
        out.add_column(name, justify="left" if name in ("verdict", "at token") else "right")
    rows: Sequence[Mapping[str, Any]] = latents.to_dict("records")  # type: ignore[assignment]
    verdicts = table["verdict"].to_dict()
    for latent, row in zip(latents.index, rows, strict=True):
        out.add_row(
            str(latent),
            str(verdicts[latent]),
            Text(tokens[int(row["position"])].replace("\n", "↵")),
            *(f"{row[name]:+.3f}" for name in ("direct", "gradient", "exact")),
        )
    return out


def _latent(latent: int, f: float, verdict: str) -> Text:
    style = "" if verdict == "shared" else "bold"
    shown = "" if verdict == "shared" else f" {verdict}"
    return Text(f"{latent} ({f:.1f}{shown})", style=style)


def _interval(value: float, low: float, high: float, percent: bool = False) -> str:
    def form(x: float) -> str:
        rounded = round(x, 2 if percent else 3) + 0.0  # no "-0"
        return f"{rounded:.0%}" if percent else f"{rounded:.3f}"

    return form(value) if low != low else f"{form(value)} [{form(low)}, {form(high)}]"


def _mean(table: pd.DataFrame | None, condition: Any) -> str:
    return "–" if table is None else f"{table.loc[condition, 'kl']:.3f}"
