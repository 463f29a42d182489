"""Figures (plotly), for notebooks and the report alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_crossdiff.diffing import VERDICTS
from sae_crossdiff.diffing.norms import BUCKETS
from sae_crossdiff.interventions import kl_table, pool_draws
from sae_crossdiff.reporting.histograms import TEXTS

COLOURS = {
    "base-only": "#3b6fb6",
    "other": "#9a9a9a",
    "shared": "#4c9f70",
    "chat-only": "#c8553d",
    "chat-specific": "#d9480f",
    "shrunk": "#b8860b",
    "decoupled": "#8e5ea2",
    "base-specific": "#1c4f9c",
    "undecided": "#8a8f98",
    "dead": "#5c5c5c",
}
TEXT_COLOURS = {"plain": COLOURS["base-only"], "chat": COLOURS["chat-specific"]}
NU_RANGE = (-1.5, 2.0)
MOST_BARS = 400
MOST_CROSSES = 2000
_GRID = "rgba(128,128,128,0.25)"


def delta_against_nu(
    tables: Mapping[str, pd.DataFrame],
    target: str = "error",
    threshold: float = 0.2,
    min_active: int = 30,
    nulls: bool = True,
    colour_by: str = "bucket",
) -> go.Figure:
    """Delta against nu of one target, one panel per table, coloured by `bucket` or `verdict`.

    Latents with fewer than `min_active` active tokens are left out; so are those beyond the axis
    (-1.5 to 2), counted in the panel's title. Bars: 95 % intervals (of the 400 latents with the
    highest verdict score, if there are more). Crosses in the margin on the right: nus of made-up
    latents (at most 2,000, at random). Dashed: the threshold of the verdict. `customdata` holds
    the latents' numbers.
    """
    figure: Any = make_subplots(
        cols=len(tables), shared_yaxes=True, subplot_titles=[*tables], horizontal_spacing=0.04
    )
    shown_names: set[str] = set()
    for column, (name, table) in enumerate(tables.items(), start=1):
        shown: Any = table[(table["active_tokens"] >= min_active) & table[f"nu_{target}"].notna()]
        inside = shown[f"nu_{target}"].between(*NU_RANGE)
        figure.layout.annotations[
            column - 1
        ].text = f"{name}: {int(inside.sum()):,} latents, {int((~inside).sum()):,} beyond the axis"
        for trace in _traces(shown[inside], target, colour_by):
            trace.showlegend = trace.name not in shown_names
            shown_names.add(str(trace.name))
            figure.add_trace(trace, row=1, col=column)
        if nulls:
            figure.add_trace(_null_trace(shown, target, first=column == 1), row=1, col=column)
        for limit in (-threshold, threshold):
            figure.add_hline(y=limit, line={"dash": "dash", "width": 1}, row=1, col=column)
        figure.update_xaxes(title="Δ (0 base-only, 1 chat-only)", range=[-0.03, 1.13], col=column)
    figure.update_yaxes(range=list(NU_RANGE))
    figure.update_yaxes(title=f"ν_{target} = β_base / β_chat", col=1)
    figure.update_layout(template="plotly_white", width=520 * len(tables) + 120, height=480)
    return figure


def _traces(table: pd.DataFrame, target: str, colour_by: str) -> list[go.Scattergl]:
    barred = table["specificity"].nlargest(MOST_BARS).index if len(table) > MOST_BARS else None
    names = BUCKETS if colour_by == "bucket" else VERDICTS[::-1]
    traces = []
    for name in names:
        part: Any = table[table[colour_by] == name]
        if part.empty:
            continue
        nu = part[f"nu_{target}"]
        has_bar = np.ones(len(part), bool) if barred is None else part.index.isin(barred)
        bars = {
            "symmetric": False,
            "array": _bar(part[f"nu_{target}_high"] - nu, has_bar),
            "arrayminus": _bar(nu - part[f"nu_{target}_low"], has_bar),
            "thickness": 0.6,
            "width": 0,
        }
        traces.append(
            go.Scattergl(
                x=part["delta"].to_numpy(np.float32),
                y=nu.to_numpy(np.float32),
                error_y=bars if has_bar.any() else None,
                mode="markers",
                name=name,
                legendgroup=name,
                marker={"size": 5, "color": COLOURS[name]},
                customdata=part.index.to_numpy(np.int32),
                hovertemplate="latent %{customdata}<br>Δ %{x:.3f}, ν %{y:.3f}",
            )
        )
    return traces


def _null_trace(table: pd.DataFrame, target: str, first: bool) -> go.Scattergl:
    nu = table[f"null_nu_{target}"].to_numpy(np.float32)
    random = np.random.default_rng(0)
    if len(nu) > MOST_CROSSES:
        nu = random.choice(nu, MOST_CROSSES, replace=False)
    places = 1.06 + 0.04 * random.uniform(-1, 1, len(nu))
    return go.Scattergl(
        x=places.astype(np.float32),
        y=nu,
        mode="markers",
        name="made-up latents",
        legendgroup="made-up",
        showlegend=first,
        hoverinfo="skip",
        marker={"size": 4, "color": "#777777", "symbol": "x-thin-open", "opacity": 0.6},
    )


def _bar(lengths: pd.Series, has_bar: np.ndarray) -> np.ndarray:
    """Unbounded intervals reach beyond the axis."""
    longest = 2 * (NU_RANGE[1] - NU_RANGE[0])
    return np.where(has_bar, np.minimum(lengths.to_numpy(), longest), 0).astype(np.float32)


def activation_histogram(histograms: pd.DataFrame, latent: int) -> go.Figure:
    """How often the latent fires how strongly, on plain text and on dialogues.

    `histograms`: of `activation_histograms.parquet`. Bins are half octaves, each named by its
    lower end.
    """
    own: Any = histograms[histograms["latent"] == latent]
    counts = bin_counts(own)
    figure = go.Figure()
    for text, colour in TEXT_COLOURS.items():
        figure.add_bar(
            x=counts["bins"],
            y=counts[text],
            name=text,
            marker={"color": colour},
            hovertemplate="f from %{x}: %{y:,} tokens",
        )
    title = "activation f, from (each bin reaches to the next)"
    figure.update_xaxes(type="category", categoryorder="array", title=title)
    figure.update_xaxes(categoryarray=counts["bins"])
    figure.update_yaxes(title="active tokens")
    figure.update_layout(template="plotly_white", barmode="group", height=260)
    return figure


def bin_counts(histogram: pd.DataFrame) -> dict[str, list[Any]]:
    """One latent's histogram without gaps: `bins` (names) and tokens in each, `plain`, `chat`."""
    if histogram.empty:
        return {"bins": [], **{text: [] for text in TEXTS}}
    numbers = np.rint(2 * np.log2(histogram["low"].to_numpy())).astype(int)
    every = range(numbers.min(), numbers.max() + 1)
    counts: dict[str, list[Any]] = {"bins": [f"{2 ** (i / 2):.2g}" for i in every]}
    for text in TEXTS:
        own = (histogram["text"] == text).to_numpy(dtype=bool)
        filled = pd.Series(histogram["tokens"].to_numpy()[own], numbers[own])
        counts[text] = [int(n) for n in filled.reindex(every, fill_value=0)]
    return counts


def kl_by_condition(
    scores: pd.DataFrame, group: str = "all", confidence: float = 0.95
) -> go.Figure:
    """KL(chat || patched) of every condition of `kl_experiment`, with intervals over documents."""
    table = kl_table(pool_draws(scores), group, confidence)[::-1]
    figure = go.Figure(
        go.Scatter(
            x=table["kl"],
            y=table.index,
            error_x={
                "symmetric": False,
                "array": table["high"] - table["kl"],
                "arrayminus": table["kl"] - table["low"],
            },
            mode="markers",
            marker={"size": 8, "color": COLOURS["base-only"]},
            hovertemplate="%{y}: %{x:.3f} nats",
        )
    )
    figure.update_xaxes(title="KL to the chat model, nats per predicted token", rangemode="tozero")
    figure.update_layout(template="plotly_white", height=120 + 24 * len(table))
    return figure


def on_any_background(figure: go.Figure) -> dict[str, Any]:
    """The figure as JSON-able content that reads on a light and on a dark page: transparent, with
    grey grids, and as wide as its place. The page sets the colour of the text."""
    adapted = go.Figure(figure)
    adapted.update_layout(
        template="none",
        width=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 12, "t": 34, "b": 84},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        autosize=True,
    )
    adapted.update_xaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    adapted.update_yaxes(gridcolor=_GRID, zerolinecolor=_GRID)
    adapted.update_shapes(line_color="gray")
    return json.loads(str(adapted.to_json()))
