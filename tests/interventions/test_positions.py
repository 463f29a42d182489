"""Positions against a plain reading of the token ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_crossdiff import Crosscoder, CrossdiffError, HookedModelPair
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.interventions import (
    ASSISTANT,
    TEMPLATE,
    Edit,
    Swap,
    TokenRoles,
    first_of_turn,
    named_positions,
)
from sae_crossdiff.interventions.edits import apply_edits
from sae_crossdiff.interventions.site import Site

Batch = tuple[Tensor, TokenRoles]


@torch.no_grad()
def test_positions(pair: HookedModelPair, crosscoder: Crosscoder, chat_batch: Batch) -> None:
    tokens, roles = chat_batch
    acts = pair.split(pair.activations(tokens))
    row = 6  # two turns
    ids = tokens[row][roles.real[row]].tolist()
    model_turn = pair.tokenizer.encode("<start_of_turn>model\n", add_special_tokens=False)
    width = len(model_turn)
    starts = [i + width - 1 for i in range(len(ids)) if ids[i : i + width] == model_turn]
    end = pair.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert len(starts) == 2

    def changed(edit: Edit) -> list[int]:
        result = apply_edits([edit], Site(crosscoder, acts, roles)).view_as(acts["chat"])
        return (result != acts["chat"]).any(-1)[row].nonzero().squeeze(-1).tolist()

    first = changed(Swap("base", at=first_of_turn(3)))
    assert first == [s + i for s in starts for i in range(3)]
    answers = [list(range(s + 1, ids.index(end, s))) for s in starts]
    assert changed(Swap("base", at=ASSISTANT)) == answers[0] + answers[1]
    template = changed(Swap("base", at=TEMPLATE))
    assert set(starts) < set(template)
    assert not set(template) & set(answers[0] + answers[1])
    assert changed(Swap("base", at=named_positions("prompt"))) == list(range(1, starts[1] + 1))
    either = sorted({*template, *answers[0], *answers[1]})
    assert changed(Swap("base", at=TEMPLATE | ASSISTANT)) == either
    neither = [i for i in range(1, len(ids)) if i not in either]
    assert changed(Swap("base", at=~TEMPLATE & ~ASSISTANT)) == neither
    with pytest.raises(CrossdiffError, match="first:N"):
        named_positions("somewhere")


def test_a_turn_cut_in_two_does_not_start_again() -> None:
    mask = np.array([False, True, True, False, False, True])
    roles = TokenRoles.of([TokenSequence(np.arange(6), 0, {"assistant": mask})])
    assert roles.turn_index[0, [4, 5]].tolist() == [0, -1]
    assert roles.turn_index[0, 0] > 1000
    assert roles.turn_index[0, 1] == roles.turn_index[0, 0] + 1
