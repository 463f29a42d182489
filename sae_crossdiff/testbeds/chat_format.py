"""Gemma's chat template, and dialogues as token ids with a mask of what to learn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_crossdiff.testbeds.dialogues import Dialogue

__all__ = ["CHAT_TEMPLATE", "Batch", "batches", "encode", "prompt_ids"]

# The format of Gemma 2 and 3, in our own Jinja: a turn per message, "assistant" is called "model".
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


class Batch(NamedTuple):
    """Right-padded dialogues; legend: B dialogues, T tokens of the longest."""

    ids_BT: Int[Tensor, "B T"]
    attention_BT: Bool[Tensor, "B T"]
    learn_BT: Bool[Tensor, "B T"]
    """tokens to predict: the assistant's words and the <end_of_turn> after them"""


def encode(tokenizer: Any, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    """Token ids of a rendered dialogue and, for each token, whether a chat model is to learn it.

    Raises:
        ValueError: if the tokenizer's own chat template renders something else.
    """
    pieces = [(tokenizer.bos_token, False)]
    for message in dialogue.messages:
        learn = message["role"] == "assistant"
        role = "model" if learn else message["role"]
        pieces.append((f"<start_of_turn>{role}\n", False))
        pieces += [(f"{message['content']}<end_of_turn>", learn), ("\n", False)]
    text = "".join(piece for piece, _ in pieces)
    if text != tokenizer.apply_chat_template(dialogue.messages, tokenize=False):
        raise ValueError(f"the tokenizer's chat template does not render Gemma's format: {text!r}")
    learn_at = [learn for piece, learn in pieces for _ in piece]
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return coded["input_ids"], [learn_at[start] for start, _ in coded["offset_mapping"]]


def prompt_ids(tokenizer: Any, dialogue: Dialogue) -> list[int]:
    """Token ids of everything before the last answer, up to and with "<start_of_turn>model\\n"."""
    text = tokenizer.apply_chat_template(
        dialogue.messages[:-1], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def batches(tokenizer: Any, dialogues: list[Dialogue], size: int, seed: int) -> Iterator[Batch]:
    """Endless shuffled batches of `size` dialogues of similar length (padding wastes compute)."""
    rng = random.Random(seed)
    coded = [encode(tokenizer, dialogue) for dialogue in dialogues]
    while True:
        order = sorted(rng.sample(coded, 8 * size), key=lambda pair: len(pair[0]))
        windows = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(windows)
        yield from (collate(window, tokenizer.pad_token_id) for window in windows)


def collate(coded: list[tuple[list[int], list[bool]]], pad_id: int) -> Batch:
    """Pad on the right, which leaves the positions of real tokens alone."""
    length = max(len(ids) for ids, _ in coded)
    ids_BT = torch.tensor([ids + [pad_id] * (length - len(ids)) for ids, _ in coded])
    real_BT = torch.tensor([[i < len(ids) for i in range(length)] for ids, _ in coded])
    learn_BT = torch.tensor([learn + [False] * (length - len(learn)) for _, learn in coded])
    return Batch(ids_BT, real_BT, learn_BT)
