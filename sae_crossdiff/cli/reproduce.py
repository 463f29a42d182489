"""`crossdiff reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.testbeds.reproduce import ReproduceConfig, run_reproduce, settings


@one_line_errors
def reproduce(
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/reproduce"),
    seed: Annotated[
        list[int] | None, typer.Option(help="seed; repeatable (0 and 1 if left out)")
    ] = None,
    steps: Annotated[int, typer.Option(help="training steps of 1,024 tokens")] = 1500,
    mu: Annotated[float, typer.Option(help="sparsity weight of the L1 crosscoder")] = 0.8,
    pair: Annotated[
        list[str] | None, typer.Option(help="only this planted pair; repeatable")
    ] = None,
    coverage_runs: Annotated[
        int, typer.Option(help="data sets on which interval coverage is measured; 0: skip")
    ] = 60,
) -> None:
    """The paper's claims on planted pairs, where the truth is known (minutes on two cores).

    Trains an L1 crosscoder, one with designated shared latents, a BatchTopK crosscoder and an SAE
    on the activation difference on the same batches of each pair, audits them, and
    scores every flag for "chat-specific" against what was planted: Delta alone, either nu, both,
    both with intervals, the verdict. Pairs: a standard one; a large mean and attention sinks; the
    known failures (weaker, composed, rarer, correlated, hierarchical features); rare features; two
    in which nothing is new. Measures the coverage of the intervals. Writes reproduce.json, the
    latent tables and figures of Delta against nu.
    """
    known = tuple(settings(0))
    unknown = sorted(set(pair or ()) - set(known))
    if unknown or steps < 100 or mu <= 0:
        raise CrossdiffError(
            f"pair={unknown or pair}, steps={steps}, mu={mu}: the pairs are {', '.join(known)}; "
            "steps must be at least 100 and mu positive"
        )
    seeds = tuple(seed) if seed else (0, 1)
    config = ReproduceConfig(
        seeds, steps, mu, pairs=tuple(pair or known), coverage_runs=coverage_runs
    )
    run_reproduce(output, console, config)
