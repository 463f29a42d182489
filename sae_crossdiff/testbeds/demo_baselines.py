"""What finds the demo's behaviours without a dictionary: the mean activation difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch, in_order
from sae_crossdiff.crosscoders.difference import model_difference
from sae_crossdiff.diffing import window_aurocs
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.reporting.difference_lens import DifferenceLens, difference_lens


def demo_lenses(pair: HookedModelPair, training: ActivationBatch) -> dict[str, DifferenceLens]:
    """The activation-difference lens on the first tokens of plain text and of dialogues."""
    chat = training.masks["chat"]
    kinds = {"plain text": ~chat, "dialogues": chat}
    return {
        name: difference_lens(pair, in_order(training.select(kind), 8192))
        for name, kind in kinds.items()
    }


def lens_aurocs(
    lenses: dict[str, DifferenceLens],
    training: ActivationBatch,
    held_out: ActivationBatch,
    behaviours: Sequence[str],
) -> list[dict[str, Any]]:
    """The latents' measure for directions: x_chat - x_base projected on each, by labelled span.

    Chosen on training documents, scored on held-out ones, as the latents are.
    """
    names = [f"{kind}, position {p}" for kind, lens in lenses.items() for p in lens.table.index]
    directions = torch.cat([lens.difference.mean for lens in lenses.values()])
    chosen, scored = (
        window_aurocs(_projections(tokens, directions).numpy(), tokens, behaviours)
        for tokens in (training, held_out)
    )
    best = chosen.argmax(axis=0)
    return [
        {"behaviour": behaviour, "direction": names[j], "auroc": float(scored[j, i])}
        for i, (behaviour, j) in enumerate(zip(behaviours, best.tolist(), strict=True))
    ]


def _projections(
    tokens: ActivationBatch, directions: Float[Tensor, "directions d"]
) -> Float[Tensor, "tokens directions"]:
    unit = torch.nn.functional.normalize(directions, dim=-1)
    batches = in_order(tokens, 8192)
    return torch.cat([model_difference(batch.acts.float()) @ unit.T for batch in batches])
