"""`crossdiff demo`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.testbeds.demo import run_demo


class DemoPair(str, Enum):
    gemma3 = "gemma3"
    tiny = "tiny"
    gemma3_noop = "gemma3-noop"
    tiny_noop = "tiny-noop"


@one_line_errors
def demo(
    pair: Annotated[
        DemoPair,
        typer.Option(
            help="gemma3: Gemma 3 270M and its chat tune (minutes); tiny: under a minute; "
            "-noop: the same base, tuned on plain text only, so nothing should be found"
        ),
    ] = DemoPair.gemma3,
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/demo"),
    cache: Annotated[
        Path | None, typer.Option(help="where the Gemma pair is unpacked, once")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="of the crosscoder, the order of its text, what is held out")
    ] = 0,
) -> None:
    """The whole path on a pair whose answer is known: models in, audited latents out.

    Loads both models, reads their residual streams on dialogues and plain English, trains a
    BatchTopK crosscoder, audits every latent with Latent Scaling, and prints what the tuning
    introduced. Writes an HTML report. Needs no account and no network; the Gemma pair needs the
    `demo` extra.
    """
    run_demo(pair.value, output / pair.value, console, cache, seed)
