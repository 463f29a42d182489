"""Figures (plotly): Delta against nu, with intervals and what chance gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_crossdiff.diffing.norms import BUCKETS

COLOURS = {
    "base-only": "#3b6fb6",
    "other": "#9a9a9a",
    "shared": "#4c9f70",
    "chat-only": "#c8553d",
}
NU_RANGE = (-1.5, 2.0)


def delta_against_nu(
    tables: Mapping[str, pd.DataFrame],
    target: str = "error",
    threshold: float = 0.2,
    min_active: int = 30,
    nulls: bool = True,
) -> go.Figure:
    """Delta against nu of one target, one panel per table, coloured by norm bucket.

    Latents with fewer than `min_active` active tokens are left out; so are those beyond the axis
    (-1.5 to 2), counted in the panel's title. Bars: 95 % intervals. Crosses in the margin on the
    right: nus of made-up latents, one per latent. Dashed: the threshold of the verdict.
    """
    figure = make_subplots(
        cols=len(tables), shared_yaxes=True, subplot_titles=[*tables], horizontal_spacing=0.04
    )
    for column, (name, table) in enumerate(tables.items(), start=1):
        shown = table[(table["active_tokens"] >= min_active) & table[f"nu_{target}"].notna()]
        inside = shown[f"nu_{target}"].between(*NU_RANGE)
        figure.layout.annotations[
            column - 1
        ].text = f"{name}: {int(inside.sum()):,} latents, {int((~inside).sum()):,} beyond the axis"
        for trace in _bucket_traces(shown[inside], target, first=column == 1):
            figure.add_trace(trace, row=1, col=column)
        if nulls:
            figure.add_trace(_null_trace(shown, target, first=column == 1), row=1, col=column)
        for limit in (-threshold, threshold):
            figure.add_hline(y=limit, line={"dash": "dash", "width": 1}, row=1, col=column)  # type: ignore[arg-type]
        figure.update_xaxes(title="Δ (0 base-only, 1 chat-only)", range=[-0.03, 1.13], col=column)
    figure.update_yaxes(range=list(NU_RANGE))
    figure.update_yaxes(title=f"ν_{target} = β_base / β_chat", col=1)
    figure.update_layout(template="plotly_white", width=520 * len(tables) + 120, height=480)
    return figure


def _bucket_traces(table: pd.DataFrame, target: str, first: bool) -> list[go.Scattergl]:
    traces = []
    for bucket in BUCKETS:
        part = table[table["bucket"] == bucket]
        nu = part[f"nu_{target}"]
        bars = {
            "symmetric": False,
            "array": _finite(part[f"nu_{target}_high"] - nu),
            "arrayminus": _finite(nu - part[f"nu_{target}_low"]),
            "thickness": 0.6,
            "width": 0,
        }
        traces.append(
            go.Scattergl(
                x=part["delta"],
                y=nu,
                error_y=bars,
                mode="markers",
                name=bucket,
                legendgroup=bucket,
                showlegend=first,
                marker={"size": 5, "color": COLOURS[bucket]},
                text=[f"latent {i}: {v}" for i, v in zip(part.index, part["verdict"], strict=True)],
            )
        )
    return traces


def _null_trace(table: pd.DataFrame, target: str, first: bool) -> go.Scattergl:
    nu = table[f"null_nu_{target}"].to_numpy()
    places = 1.06 + 0.04 * np.random.default_rng(0).uniform(-1, 1, len(nu))
    return go.Scattergl(
        x=places,
        y=nu,
        mode="markers",
        name="made-up latents",
        legendgroup="made-up",
        showlegend=first,
        marker={"size": 4, "color": "#222222", "symbol": "x-thin-open", "opacity": 0.5},
    )


def _finite(lengths: pd.Series) -> np.ndarray:
    """Unbounded intervals reach beyond the axis."""
    return np.minimum(lengths.to_numpy(), 2 * (NU_RANGE[1] - NU_RANGE[0]))
