"""`crossdiff steer`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions import Steer, generate, named_positions
from sae_crossdiff.interventions.prompts import chat_prompt, plain_prompt
from sae_crossdiff.reporting.run_folder import load_run

DEMO_RUN = Path("runs/demo/gemma3")


class Model(str, Enum):
    base = "base"
    chat = "chat"


@one_line_errors
def steer(
    prompt: Annotated[str, typer.Argument(help="a question, rendered as chat")],
    latent: Annotated[list[int], typer.Option(help="latent to steer with; repeatable")],
    run: Annotated[Path, typer.Option(help="run folder; the demo's if left out")] = DEMO_RUN,
    alpha: Annotated[
        float, typer.Option(help="strength, in units of the latent's largest activation")
    ] = 1.0,
    model: Annotated[Model, typer.Option(help="whose residual stream is steered")] = Model.chat,
    at: Annotated[
        str, typer.Option(help="positions: all, prompt, assistant, template or first:N")
    ] = "all",
    plain: Annotated[bool, typer.Option(help="continue the text itself, without a chat")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="longest answer")] = 64,
    crosscoder: Annotated[str, typer.Option(help="name, if the run has several")] = "",
    dtype: Annotated[str, typer.Option(help="of the models; the run's own if left out")] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda; the run's own if left out")] = "",
) -> None:
    """Add alpha times a latent's decoder direction while generating; prints both greedy answers.

    Example: crossdiff steer "What is a computer?" --latent 1185 --alpha 1.5
    """
    if max_new_tokens < 1:
        raise CrossdiffError(f"--max-new-tokens {max_new_tokens} would generate nothing")
    loaded = load_run(run, crosscoder, device, dtype)
    positions = named_positions(at)
    edits = [Steer.by_max(loaded.table, j, alpha, at=positions) for j in latent]
    tokenizer = loaded.pair.tokenizer
    rendered = plain_prompt(prompt, tokenizer) if plain else chat_prompt(prompt, tokenizer)
    for title, chosen in (("unedited", []), (f"steered by {alpha:g}", edits)):
        (ids,) = generate(
            loaded.pair,
            [rendered],
            chosen,
            loaded.crosscoder,
            target=model.value,
            max_new_tokens=max_new_tokens,
            exclusions=loaded.exclusions,
        )
        console.print(f"[bold]{model.value}, {title}[/]")
        console.print(tokenizer.decode(ids), markup=False, highlight=False, soft_wrap=True)
