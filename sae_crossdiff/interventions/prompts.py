"""Prompts as token sequences that know what each token is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import render_chat


def chat_prompt(
    messages: str | Sequence[Mapping[str, str]], tokenizer: Any, document: int = 0
) -> TokenSequence:
    """A dialogue (or one question) up to where the assistant's answer begins.

    Raises:
        CrossdiffError: no chat template, one without a generation prompt, or one whose generation
            prompt changes what precedes it.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    chat = render_chat(messages, tokenizer)
    text = tokenizer.apply_chat_template(
        [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
    )
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
    n = len(chat.ids)
    if len(ids) <= n or not np.array_equal(ids[:n], chat.ids):
        raise CrossdiffError(
            "the chat template's generation prompt is not simply appended to the dialogue: use a "
            "template that knows add_generation_prompt, or build the TokenSequence yourself"
        )
    template = np.concatenate([chat.masks["template"], np.ones(len(ids) - n, dtype=bool)])
    assistant = np.concatenate([chat.masks["assistant"], np.zeros(len(ids) - n, dtype=bool)])
    special = _special(ids, tokenizer)
    masks = {"template": template & ~special, "assistant": assistant, "special": special}
    return TokenSequence(ids, document, masks)


def plain_prompt(text: str, tokenizer: Any, document: int = 0) -> TokenSequence:
    """Text to continue, after BOS where the tokenizer has one; no chat."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = np.array(bos + tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
    if not len(ids):
        raise CrossdiffError("an empty prompt: nothing to continue")
    nothing = np.zeros(len(ids), dtype=bool)
    special = _special(ids, tokenizer)
    return TokenSequence(
        ids, document, {"template": nothing, "assistant": nothing, "special": special}
    )


def turn_end_ids(tokenizer: Any) -> list[int]:
    """Tokens that end an answer: end of sequence, and the end-of-turn token where there is one."""
    ids = {tokenizer.eos_token_id} - {None}
    vocabulary = tokenizer.get_vocab()
    for name in ("<end_of_turn>", "<|eot_id|>", "<|im_end|>", "<|end|>"):
        if name in vocabulary:
            ids.add(vocabulary[name])
    return sorted(ids)


def _special(ids: np.ndarray, tokenizer: Any) -> np.ndarray:
    """BOS and padding, as in training: the tokens that the crosscoder never saw."""
    special = {tokenizer.bos_token_id, tokenizer.pad_token_id} - {None}
    if tokenizer.eos_token_id != tokenizer.bos_token_id:
        special -= {tokenizer.eos_token_id}
    return np.isin(ids, sorted(special))
