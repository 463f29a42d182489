"""Generation with edits: with and without a KV cache, against plain forwards and HF's generate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_crossdiff import Crosscoder, CrossdiffError, HookedModelPair
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.interventions import (
    ASSISTANT,
    PROMPT,
    Ablate,
    Edit,
    ProjectOut,
    Steer,
    Swap,
    TokenRoles,
    chat_prompt,
    edit_hooks,
    first_of_turn,
    generate,
    patch,
    plain_prompt,
)
from sae_crossdiff.testbeds.behaviours import answers
from sae_crossdiff.testbeds.dialogues import load_dialogues
from tests.tiny_models import word_tokenizer

S = (2, 5, 11)
EDITS: dict[str, tuple[Edit, ...]] = {
    "none": (),
    "steer": (Steer(7, 6.0),),
    "steer answer": (Steer(7, 6.0, at=ASSISTANT),),
    "project": (ProjectOut(S),),
    "ablate": (Ablate(tuple(range(0, 40, 2))),),
    "swap": (Swap("base"),),
    "swap prompt": (Swap("base", at=PROMPT),),
    "patch": patch(range(20)),
    "first": (Swap("base", at=first_of_turn(3)),),
}


@pytest.fixture(scope="module")
def word_prompts(family_pair: HookedModelPair) -> list[TokenSequence]:
    texts = ["w1 w2 w3 w4 w5 w6 w7 w8", "w9", "w10 w11 w12"]
    return [plain_prompt(text, family_pair.tokenizer) for text in texts]


@pytest.mark.parametrize("name", EDITS)
def test_cache_or_not_and_batched_or_not_give_the_same_tokens(
    family_pair: HookedModelPair,
    family_crosscoder: Crosscoder,
    word_prompts: list[TokenSequence],
    name: str,
) -> None:
    """Prompts of different lengths (left padding), longer than the sliding window."""

    def run(**kwargs: Any) -> list[list[int]]:
        return generate(
            family_pair, word_prompts, EDITS[name], family_crosscoder, max_new_tokens=12, **kwargs
        )

    cached = run()
    assert cached == run(use_cache=False)
    assert cached == run(batch_size=1)
    if name not in ("none", "first"):
        plain = generate(family_pair, word_prompts, max_new_tokens=12)
        assert cached != plain


@torch.no_grad()
@pytest.mark.parametrize("name", ["none", "steer", "ablate", "patch", "swap"])
def test_generation_equals_a_loop_of_hooked_forwards(
    pair: HookedModelPair, crosscoder: Crosscoder, name: str
) -> None:
    prompt = chat_prompt("What is a computer?", pair.tokenizer)
    tokens = torch.from_numpy(prompt.ids)[None]
    special = [2, 0]
    wanted = []
    for _ in range(10):
        roles = TokenRoles.plain(tokens, special)
        hooks = edit_hooks(pair, crosscoder, EDITS[name], roles)
        logits = pair.run_with_hooks(tokens, fwd_hooks=hooks)
        wanted.append(int(logits[0, -1].argmax()))
        tokens = torch.cat([tokens, torch.tensor([[wanted[-1]]])], dim=1)
    ours = generate(pair, [prompt], EDITS[name], crosscoder, max_new_tokens=10, stop_ids=[])
    assert ours == [wanted]


def test_decoder_edits_need_one_model_only(pair: HookedModelPair, crosscoder: Crosscoder) -> None:
    prompts = [chat_prompt(q, pair.tokenizer) for q in ("Who are you?", "What is a book about?")]
    chat = pair.models["chat"]
    for name in ("steer", "project"):
        alone = generate(chat, prompts, EDITS[name], crosscoder, max_new_tokens=12)
        assert alone == generate(pair, prompts, EDITS[name], crosscoder, max_new_tokens=12)
        assert alone == generate(
            chat, prompts, EDITS[name], crosscoder, max_new_tokens=12, use_cache=False
        )
    with pytest.raises(CrossdiffError, match="HookedModelPair instead"):
        generate(chat, prompts, EDITS["ablate"], crosscoder)
    with pytest.raises(CrossdiffError, match="needs that model"):
        generate(chat, prompts, EDITS["swap"], crosscoder)
    with pytest.raises(CrossdiffError, match="need the crosscoder"):
        generate(chat, prompts, EDITS["steer"])


def test_unedited_generation_equals_hugging_faces(pair: HookedModelPair) -> None:
    dialogues = load_dialogues("heldout")[:5]
    prompts = [chat_prompt(d.messages[:-1], pair.tokenizer) for d in dialogues]
    for name in ("base", "chat"):
        model = pair.models[name]
        wanted = answers(model.original_model, pair.tokenizer, dialogues, max_new_tokens=24)
        ours = generate(pair, prompts, target=name, max_new_tokens=24)
        texts = pair.tokenizer.batch_decode(ours)
        assert [text.split("<end_of_turn>")[0] for text in texts] == [
            text.split("<end_of_turn>")[0] for text in wanted
        ]


def test_models_without_hugging_face_caches() -> None:
    config = HookedTransformerConfig(
        n_layers=3, d_model=16, n_ctx=32, d_head=4, n_heads=4, d_vocab=128, act_fn="relu", seed=0
    )
    model = HookedTransformer(config)
    prompt = TokenSequence(np.array([2, 9, 10, 11]), 0)
    with pytest.raises(CrossdiffError, match="use_cache=False"):
        generate(model, [prompt])
    ours = generate(model, [prompt], use_cache=False, max_new_tokens=5, stop_ids=[])
    tokens = torch.from_numpy(prompt.ids)[None]
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert ours == [tokens[0, 4:].tolist()]


def test_prompts_know_their_tokens(pair: HookedModelPair) -> None:
    prompt = chat_prompt("What is a computer?", pair.tokenizer)
    text = pair.tokenizer.decode(prompt.ids)
    assert text == "<bos><start_of_turn>user\nWhat is a computer?<end_of_turn>\n" + (
        "<start_of_turn>model\n"
    )
    content = prompt.ids[~prompt.masks["template"] & ~prompt.masks["special"]]
    assert pair.tokenizer.decode(content) == "What is a computer?"
    assert prompt.masks["special"].tolist() == [True] + [False] * (len(prompt) - 1)
    with pytest.raises(CrossdiffError, match="generation prompt"):
        chat_prompt("w1 w2", word_tokenizer())
