"""Edits through hooks against naive loops over tokens and latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_crossdiff import Crosscoder, CrossdiffError, HookedModelPair
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.interventions import (
    ASSISTANT,
    TEMPLATE,
    Ablate,
    AddDifference,
    Clamp,
    Edit,
    Exclusions,
    KeepOnly,
    ProjectOut,
    Reconstruct,
    Replace,
    Revert,
    Steer,
    Swap,
    TokenRoles,
    code_hooks,
    edit_hooks,
    edited,
    first_of_turn,
    patch,
)
from sae_crossdiff.interventions.edits import apply_edits
from sae_crossdiff.interventions.positions import named_positions
from sae_crossdiff.interventions.site import Site
from tests.interventions.conftest import SITE, plain_batch

Batch = tuple[Tensor, TokenRoles]
S = (2, 5, 11)


def naive(crosscoder: Crosscoder, base: Tensor, chat: Tensor) -> dict[str, Tensor]:
    """Each edit of one token, written out latent by latent."""
    code = crosscoder.encode(torch.cat([base, chat]))
    d_base, d_chat = (W.double() for W in crosscoder.W_dec_per_model)
    x, h = chat.double(), base.double()
    b = crosscoder.b_dec_per_model[1].double()
    parts = {j: float(f) * d_chat[j] for j, f in enumerate(code)}
    differences = {j: float(f) * (d_chat[j] - d_base[j]) for j, f in enumerate(code)}
    inside = x - b
    for row in torch.linalg.qr(d_chat[list(S)].T).Q.T:
        inside = inside - (inside @ row) * row
    return {
        "steer": x + 1.5 * d_chat[7],
        "ablate": x - sum(parts[j] for j in S),
        "clamp": x + sum((2.0 - float(code[j])) * d_chat[j] for j in S if code[j] > 0),
        "clamp everywhere": x + sum((2.0 - float(code[j])) * d_chat[j] for j in S),
        "keep": x - sum(parts[j] for j in parts if j not in S),
        "project": inside + b,
        "swap": h,
        "patch": h + sum(differences[j] for j in S),
        "revert": x - sum(differences[j] for j in S),
        "patch all": h + sum(differences.values()),
        "reconstruct": sum(parts.values()) + b,
        "zero": torch.zeros_like(x),
    }


EDITS: dict[str, tuple[Edit, ...]] = {
    "steer": (Steer(7, 1.5),),
    "ablate": (Ablate(S),),
    "clamp": (Clamp(S, 2.0),),
    "clamp everywhere": (Clamp(S, 2.0, only_active=False),),
    "keep": (KeepOnly(S),),
    "project": (ProjectOut(S),),
    "swap": (Swap("base"),),
    "patch": patch(S),
    "patch all": patch(None),
    "revert": (Revert(S),),
    "reconstruct": (Reconstruct(),),
    "zero": (Replace("zero"),),
}


@torch.no_grad()
@pytest.mark.parametrize("name", EDITS)
def test_edits_equal_the_naive_sums(
    pair: HookedModelPair, crosscoder: Crosscoder, chat_batch: Batch, name: str
) -> None:
    tokens, roles = chat_batch
    acts = pair.split(pair.activations(tokens))
    result = apply_edits(EDITS[name], Site(crosscoder, acts, roles)).view_as(acts["chat"])
    for row, column in [(0, 4), (3, 9), (7, 20)]:
        wanted = naive(crosscoder, acts["base"][row, column], acts["chat"][row, column])[name]
        torch.testing.assert_close(result[row, column].double(), wanted, rtol=1e-4, atol=1e-4)
    untouched = roles.special | ~roles.real
    assert torch.equal(result[untouched], acts["chat"][untouched])
    assert not torch.equal(result, acts["chat"])


@torch.no_grad()
def test_all_latents_bias_and_error_give_the_chat_model_exactly(
    family_pair: HookedModelPair, family_crosscoder: Crosscoder
) -> None:
    """arXiv:2504.02922: h_base + sum f (d_chat - d_base) + biases + errors = h_chat."""
    tokens, roles = plain_batch()
    everything = (Swap("base"), AddDifference(None, bias=True, error=True))
    hooks = edit_hooks(family_pair, family_crosscoder, everything, roles)
    logits = family_pair.run_with_hooks(tokens, fwd_hooks=hooks)
    chat = family_pair.models["chat"](tokens)
    torch.testing.assert_close(logits, chat, rtol=1e-4, atol=1e-4)
    for less in (patch(None), (Swap("base"),), (Swap("base"), AddDifference(None, bias=True))):
        hooks = edit_hooks(family_pair, family_crosscoder, less, roles)
        other = family_pair.run_with_hooks(tokens, fwd_hooks=hooks)
        assert (other - chat).abs().max() > 0.05
    torch.testing.assert_close(
        family_pair.run_with_hooks(
            tokens, fwd_hooks=edit_hooks(family_pair, family_crosscoder, [], roles)
        ),
        chat,
        rtol=0,
        atol=0,
    )


@torch.no_grad()
def test_edits_on_one_model_alone_equal_those_on_the_pair(
    family_pair: HookedModelPair, family_crosscoder: Crosscoder
) -> None:
    tokens, roles = plain_batch()
    chat = family_pair.models["chat"]
    for edits in ([Steer(3, 2.0)], [ProjectOut(S)], [Steer(3, 2.0), ProjectOut((3,))]):
        alone = chat.run_with_hooks(
            tokens, fwd_hooks=edit_hooks(chat, family_crosscoder, edits, roles)
        )
        together = family_pair.run_with_hooks(
            tokens, fwd_hooks=edit_hooks(family_pair, family_crosscoder, edits, roles)
        )
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
        assert (alone - chat(tokens)).abs().max() > 1e-3
    with pytest.raises(CrossdiffError, match="HookedModelPair instead"):
        chat.run_with_hooks(
            tokens, fwd_hooks=edit_hooks(chat, family_crosscoder, [Ablate(S)], roles)
        )


@torch.no_grad()
@pytest.mark.parametrize("name", ["steer", "ablate", "clamp", "clamp everywhere", "keep"])
def test_edits_of_the_code_equal_those_of_the_residual_stream(
    pair: HookedModelPair, crosscoder: Crosscoder, chat_batch: Batch, name: str
) -> None:
    tokens, roles = chat_batch
    on_residual = pair.run_with_hooks(
        tokens, fwd_hooks=edit_hooks(pair, crosscoder, EDITS[name], roles)
    )
    with pair.saes(saes=[crosscoder], use_error_term=True):
        on_code = pair.run_with_hooks(tokens, fwd_hooks=code_hooks(SITE, EDITS[name], roles))
    torch.testing.assert_close(on_residual[roles.real], on_code[roles.real], rtol=1e-3, atol=1e-3)


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
    import numpy as np

    mask = np.array([False, True, True, False, False, True])
    roles = TokenRoles.of([TokenSequence(np.arange(6), 0, {"assistant": mask})])
    assert roles.turn_index[0, [4, 5]].tolist() == [0, -1]
    assert roles.turn_index[0, 0] > 1000
    assert roles.turn_index[0, 1] == roles.turn_index[0, 0] + 1


@torch.no_grad()
def test_large_norms_are_left_alone(
    pair: HookedModelPair, crosscoder: Crosscoder, chat_batch: Batch
) -> None:
    tokens, roles = chat_batch
    acts = pair.split(pair.activations(tokens))
    norms = acts["base"].norm(dim=-1)
    limit = float(norms[roles.real].median())
    site = Site(crosscoder, acts, roles, exclusions=Exclusions({"base": limit}))
    result = apply_edits([Steer(1, 3.0)], site).view_as(acts["chat"])
    touched = (result != acts["chat"]).any(-1)
    assert torch.equal(touched, roles.real & ~roles.special & (norms <= limit))


def fail_inside(context: Any, tokens: Tensor, before: Tensor) -> None:
    with context as model:
        assert not torch.equal(model(tokens), before)
        raise RuntimeError("user code")


@torch.no_grad()
def test_edits_are_gone_after_an_error(
    pair: HookedModelPair, crosscoder: Crosscoder, chat_batch: Batch
) -> None:
    tokens, roles = chat_batch
    for model in (pair, pair.models["chat"]):
        before = model(tokens)

        with pytest.raises(RuntimeError, match="user code"):
            fail_inside(edited(model, crosscoder, [Steer(1, 500.0)], roles), tokens, before)
        torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)


def test_wrong_use_says_what_to_do(
    pair: HookedModelPair, crosscoder: Crosscoder, chat_batch: Batch
) -> None:
    tokens, roles = chat_batch

    def run(edit: Edit, on: Tensor = tokens, **kwargs: Any) -> None:
        hooks = edit_hooks(pair, crosscoder, [edit], roles, **kwargs)
        pair.run_with_hooks(on, fwd_hooks=hooks)

    with pytest.raises(CrossdiffError, match="no latents \\[99\\]"):
        run(Ablate((99,)))
    with pytest.raises(CrossdiffError, match="only \\['base', 'chat'\\] ran"):
        run(Swap("other"))
    with pytest.raises(CrossdiffError, match="made for"):
        run(Steer(1, 1.0), tokens[:, :-1])
    with pytest.raises(CrossdiffError, match="output_model='base'"):
        run(Steer(1, 1.0), target="base")
    with pytest.raises(CrossdiffError, match="not the code"):
        Swap("base").on_code(torch.ones(1, 3))
