"""`crossdiff kl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.activations import TextSource, token_sequences
from sae_crossdiff.cli.shared import console, dialogue_sources, one_line_errors
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions import (
    kl_experiment,
    latent_sets,
    pool_draws,
    single_latents,
    standard_conditions,
)
from sae_crossdiff.reporting.audit import own_sources
from sae_crossdiff.reporting.causal import kl_rows
from sae_crossdiff.reporting.run_folder import LoadedRun, load_run


@one_line_errors
def kl(
    run: Annotated[Path, typer.Argument(help="output folder of `crossdiff train` or `demo`")],
    dialogues: Annotated[
        list[str] | None,
        typer.Option(
            help="dialogues to test on: hub id or file; repeatable; the run's own if left out. "
            "`heldout` and `analysis` are the demo's"
        ),
    ] = None,
    dialogues_column: Annotated[str, typer.Option(help="column of the messages")] = "messages",
    n_tokens: Annotated[int, typer.Option(help="tokens to read at most")] = 50_000,
    size: Annotated[
        int, typer.Option(help="latents per ranked and random set; 0: as many as chat-specific")
    ] = 0,
    draws: Annotated[int, typer.Option(help="random sets per kind of control")] = 5,
    singles: Annotated[
        int, typer.Option(help="latents patched one by one, by verdict score; for the report")
    ] = 12,
    crosscoder: Annotated[str, typer.Option(help="name, if the run has several")] = "",
    dtype: Annotated[str, typer.Option(help="of the models; bfloat16 logits are coarse")] = (
        "float32"
    ),
    device: Annotated[str, typer.Option(help="cpu or cuda; the run's own if left out")] = "",
    batch_size: Annotated[int, typer.Option(help="dialogues per forward")] = 16,
) -> None:
    """The causal test: patch latents into the base and see how much of the chat model comes back.

    h_base + sum f (d_chat - d_base), through the chat model's upper layers; KL to the chat model
    per predicted assistant token. Compares no patch, all latents, rankings by norm difference and
    by nu, the verdict, and random sets of equal size. Writes kl.parquet beside the crosscoder.
    """
    loaded = load_run(run, crosscoder, device, dtype)
    sources = _sources(loaded, dialogues or [], dialogues_column)
    context = loaded.config.text.context_size
    sequences = list(token_sequences(sources, loaded.pair.tokenizer, context, n_tokens))
    sets = latent_sets(loaded.table, size or None, draws) | single_latents(loaded.table, singles)
    console.print(
        f"[bold]{len(standard_conditions(sets))} conditions[/] at {loaded.pair.hook_name}, "
        f"{sum(map(len, sequences)):,} tokens; f comes from both models (an oracle)"
    )
    scores = kl_experiment(
        loaded.pair,
        loaded.crosscoder,
        sequences,
        sets,
        exclusions=loaded.exclusions,
        batch_size=batch_size,
    )
    path = loaded.folder / "kl.parquet"
    scores.to_parquet(path)
    console.print(kl_rows(pool_draws(scores)))
    console.print("BOS and tokens that training left out keep the chat model's activations.")
    console.print("Scores per document", path, soft_wrap=True, markup=False)


def _sources(loaded: LoadedRun, dialogues: list[str], column: str) -> list[TextSource]:
    if not dialogues:
        own = [s for s in own_sources(loaded.config) if s.kind == "chat"]
        if not own:
            raise CrossdiffError("this run read no dialogues: pass --dialogues")
        return own
    return dialogue_sources(dialogues, column)
