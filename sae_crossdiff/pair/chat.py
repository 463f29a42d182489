"""Rendering dialogues with a model's chat template, and knowing which token came from where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jinja2
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sae_crossdiff.errors import CrossdiffError

Message = Mapping[str, str]


class LabelledSpan(NamedTuple):
    """Characters [start, end) of one message's content that show a named behaviour."""

    label: str
    message: int
    start: int
    end: int


@dataclass(frozen=True)
class RenderedChat:
    """Token ids [tokens] of a dialogue, and boolean masks [tokens] that say what they are.

    `template`: no character of the token is in any message (turn markers, role names, newlines,
    BOS). `assistant`: the token is in an assistant message. One more mask per span label.
    """

    ids: NDArray[np.int64]
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


def render_chat(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    spans: Sequence[LabelledSpan] = (),
) -> RenderedChat:
    """Render `messages` with the tokenizer's chat template and mark every token.

    Raises:
        CrossdiffError: no chat template, a slow tokenizer (no offsets), an empty dialogue, or a
            template that rewrites the messages so that they cannot be found in its output.
    """
    _check(messages, tokenizer)
    text = _rendered(messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    contents = _locate(messages, text, tokenizer)

    def touches(start: int, end: int) -> NDArray[np.bool_]:
        return (offsets[:, 0] < end) & (offsets[:, 1] > start)

    masks: dict[str, Any] = {name: np.zeros(len(offsets), dtype=bool) for name in ("assistant",)}
    inside = np.zeros(len(offsets), dtype=bool)
    for message, (start, end) in zip(messages, contents, strict=True):
        touched = touches(start, end)
        inside |= touched
        if message["role"] in ("assistant", "model"):
            masks["assistant"] |= touched
    masks["template"] = ~inside
    for span in spans:
        content = messages[span.message]["content"]
        start, end = contents[span.message]
        # A template that strips messages shifts their characters.
        was_stripped = end - start < len(content)
        origin = start - (len(content) - len(content.lstrip()) if was_stripped else 0)
        mask = masks.setdefault(span.label, np.zeros(len(offsets), dtype=bool))
        mask |= touches(origin + span.start, origin + span.end)
    return RenderedChat(np.array(encoded["input_ids"], dtype=np.int64), masks)


def _rendered(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False))
    except jinja2.TemplateError as error:
        roles = [message["role"] for message in messages]
        raise CrossdiffError(
            f"the chat template refuses a dialogue with the roles {roles}: {error}. Filter such "
            "dialogues out of the data set (some templates know no system role)"
        ) from error


def _check(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> None:
    if not messages:
        raise CrossdiffError("a dialogue without messages: drop empty rows from the data set")
    for message in messages:
        sound = isinstance(message, Mapping) and isinstance(message.get("content"), str)
        if not sound or "role" not in message:
            raise CrossdiffError(
                f"a chat message must be {{'role': ..., 'content': ...}} with text in both, got "
                f"{message!r}: name the right column, or convert the data set"
            )
    if not getattr(tokenizer, "chat_template", None):
        raise CrossdiffError(
            "the chat model's tokenizer has no chat template: pass `chat` the tuned model, or set "
            "tokenizer.chat_template"
        )
    if not tokenizer.is_fast:
        raise CrossdiffError(
            f"{type(tokenizer).__name__} gives no character offsets, so template tokens cannot be "
            "marked: use the fast tokenizer (use_fast=True)"
        )


def _locate(
    messages: Sequence[Message], text: str, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]]:
    """Where each message's content stands in the rendered text.

    The literal parts between the messages come from rendering placeholders: searching for the
    content itself would mistake a message "user" for the role's name.
    """
    placeholders = [f"\ue000{i}\ue001" for i in range(len(messages))]
    masked = [{**m, "content": p} for m, p in zip(messages, placeholders, strict=True)]
    skeleton = _rendered(masked, tokenizer)
    literals = re.split("\ue000\\d+\ue001", skeleton)
    for contents in (
        [m["content"].strip() for m in messages],
        [m["content"] for m in messages],
    ):
        if "".join(a + b for a, b in zip(literals, [*contents, ""], strict=False)) == text:
            located, at = [], 0
            for literal, content in zip(literals, contents, strict=False):
                at += len(literal)
                located.append((at, at + len(content)))
                at += len(content)
            return located
    raise CrossdiffError(
        "the chat template does not insert the messages verbatim, so template tokens cannot be "
        f"told from content (first message {messages[0]['content'][:40]!r}). Use a template that "
        "leaves messages as they are"
    )
