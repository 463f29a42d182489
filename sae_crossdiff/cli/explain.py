"""`crossdiff explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape

from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.cli.shared import console, one_line_errors
from sae_crossdiff.cli.steer import DEMO_RUN
from sae_crossdiff.interventions import attribute
from sae_crossdiff.interventions.positions import TokenRoles
from sae_crossdiff.interventions.prompts import chat_prompt, plain_prompt
from sae_crossdiff.interventions.site import Site
from sae_crossdiff.reporting.causal import active_rows, attribution_rows
from sae_crossdiff.reporting.run_folder import LoadedRun, load_run


@one_line_errors
def explain(
    prompt: Annotated[str, typer.Argument(help="a question, rendered as chat")],
    run: Annotated[Path, typer.Option(help="run folder; the demo's if left out")] = DEMO_RUN,
    top: Annotated[int, typer.Option(help="latents per token, and latents attributed")] = 6,
    plain: Annotated[bool, typer.Option(help="take the text as it is, without a chat")] = False,
    crosscoder: Annotated[str, typer.Option(help="name, if the run has several")] = "",
    dtype: Annotated[str, typer.Option(help="of the models")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda; the run's own if left out")] = "",
) -> None:
    """Which latents are active on each token of a prompt, and which carry the next token.

    The second table attributes the chat model's next token (its logit over the mean logit) to what
    latents write more in chat than in base: directly, to first order through the layers above, and
    exactly, by ablation.
    """
    loaded = load_run(run, crosscoder, device, dtype)
    tokenizer = loaded.pair.tokenizer
    rendered = plain_prompt(prompt, tokenizer) if plain else chat_prompt(prompt, tokenizer)
    words = [tokenizer.decode([i]) for i in rendered.ids.tolist()]
    active = active_latents(loaded, rendered, top)
    console.print(active_rows(list(zip(words, active, strict=True)), loaded.table))
    found = attribute(
        loaded.pair, loaded.crosscoder, rendered, n_exact=top, exclusions=loaded.exclusions
    )
    title = f"Latents that carry the next token, {tokenizer.decode([found.token])!r}"
    console.print(attribution_rows(found.latents[:top], loaded.table, words, title))
    totals = ", ".join(f"{name} {value:+.2f}" for name, value in found.totals.items())
    console.print(escape(f"Logit over mean: {totals} (the last three to first order)"))


@torch.no_grad()
def active_latents(
    loaded: LoadedRun, prompt: TokenSequence, top: int
) -> list[list[tuple[int, float]]]:
    """Per token its `top` latents by f over their largest f in the table, with f."""
    tokens = torch.from_numpy(prompt.ids)[None].to(loaded.pair.device)
    acts = loaded.pair.split(loaded.pair.activations(tokens))
    roles = TokenRoles.of([prompt]).to(loaded.pair.device)
    code = Site(loaded.crosscoder, acts, roles, exclusions=loaded.exclusions).code
    largest = torch.tensor(loaded.table["max_activation"].to_numpy())
    found: list[list[tuple[int, float]]] = [[] for _ in range(code.n_tokens)]
    entries = zip(code.rows.tolist(), code.latents.tolist(), code.values.tolist(), strict=True)
    for row, latent, value in entries:
        found[row].append((latent, value))
    # A latent that never fired in the table's text is a surprise: it comes first.
    for some in found:
        some.sort(key=lambda entry: -entry[1] / max(float(largest[entry[0]]), 1e-9))
    return [some[:top] for some in found]
