"""`crossdiff lens`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.activations import OutlierFilter, TextSource, harvest, token_sequences
from sae_crossdiff.cli.shared import console, dialogue_sources, one_line_errors
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.reporting.audit import own_sources
from sae_crossdiff.reporting.difference_lens import (
    check_comparable,
    difference_lens,
    first_tokens,
    lens_rows,
)
from sae_crossdiff.training import CrosscoderRunnerConfig


@one_line_errors
def lens(
    run: Annotated[Path, typer.Argument(help="output folder of `crossdiff train`")],
    text: Annotated[
        list[str] | None, typer.Option(help="plain text: hub id or file; the run's own if left out")
    ] = None,
    dialogues: Annotated[
        list[str] | None,
        typer.Option(
            help="dialogues: hub id or file; the run's own if left out. `heldout` and `analysis` "
            "are the demo's"
        ),
    ] = None,
    dialogues_column: Annotated[str, typer.Option(help="column of the messages")] = "messages",
    n_positions: Annotated[int, typer.Option(help="first tokens to look at, BOS left out")] = 5,
    n_tokens: Annotated[int, typer.Option(help="tokens of text to read at most")] = 200_000,
    device: Annotated[str, typer.Option(help="cpu or cuda; the run's own if left out")] = "",
) -> None:
    """The baseline without a dictionary: mean activation difference on the first tokens.

    Averages chat - base over documents, position by position, on plain text and on dialogues, and
    reads each direction as next tokens (activation-difference lens). Needs no crosscoder, only
    the run's models and text.
    """
    if n_positions < 1:
        raise CrossdiffError(f"--n-positions {n_positions}: give one or more")
    config = CrosscoderRunnerConfig.from_file(run / "runner_cfg.json")
    passed = [TextSource(name) for name in text or []]
    passed += dialogue_sources(dialogues or [], dialogues_column)
    sources = passed or own_sources(config)
    pair = config.load_pair(device)
    check_comparable(pair)
    sequences = list(token_sequences(sources, pair.tokenizer, config.text.context_size, n_tokens))
    for title, chat in (("plain text", False), ("dialogues", True)):
        heads = list(first_tokens(sequences, n_positions + 1, chat))
        if heads:
            kept = OutlierFilter(config.activations.outliers, pair.d_ins)(harvest(pair, heads, 64))
            found = difference_lens(pair, kept, range(1, n_positions + 1))
            console.print(lens_rows(found.table, f"Mean difference at {pair.hook_name}, {title}"))
