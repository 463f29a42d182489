from __future__ import annotations

from typing import Any

import pytest

from sae_crossdiff import CrossdiffError, HookedModelPair
from sae_crossdiff.pair import LabelledSpan, render_chat
from tests.tiny_models import word_tokenizer

DIALOGUE = [
    {"role": "user", "content": "user w1 w2"},  # content that repeats the role's name
    {"role": "assistant", "content": "  w3 w4 w5 "},
]


def marked(chat: Any, tokenizer: Any, mask: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(chat.ids[chat.masks[mask]].tolist())


def test_every_token_knows_where_it_came_from() -> None:
    tokenizer = word_tokenizer()
    chat = render_chat(DIALOGUE, tokenizer, [LabelledSpan("late", 1, 5, 10)])
    assert tokenizer.convert_ids_to_tokens(chat.ids.tolist()) == [
        "<bos>", "<start_of_turn>", "user", "user", "w1", "w2", "<end_of_turn>",
        "<start_of_turn>", "model", "w3", "w4", "w5", "<end_of_turn>",
    ]  # fmt: skip
    assert marked(chat, tokenizer, "assistant") == ["w3", "w4", "w5"]
    assert marked(chat, tokenizer, "late") == ["w4", "w5"]
    assert marked(chat, tokenizer, "template") == [
        "<bos>", "<start_of_turn>", "user", "<end_of_turn>",
        "<start_of_turn>", "model", "<end_of_turn>",
    ]  # fmt: skip


def test_shipped_template_on_real_text(pair: HookedModelPair) -> None:
    messages = [
        {"role": "user", "content": "What is a computer?"},
        {"role": "assistant", "content": "A machine."},
    ]
    chat = render_chat(messages, pair.tokenizer)
    for message, mask in ((messages[1], "assistant"),):
        assert pair.tokenizer.decode(chat.ids[chat.masks[mask]]).strip() == message["content"]
    template = pair.tokenizer.decode(chat.ids[chat.masks["template"]])
    assert "computer" not in template
    assert template.count("<start_of_turn>") == 2


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "without messages"),
        ([{"role": "user"}], "must be {'role'"),
        (["hello"], "must be {'role'"),
        ([{"role": "user", "content": None}], "with text in both"),
    ],
)
def test_bad_dialogues(messages: Any, message: str) -> None:
    with pytest.raises(CrossdiffError, match=message):
        render_chat(messages, word_tokenizer())


def test_a_template_that_refuses_the_dialogue() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(CrossdiffError, match=r"refuses a dialogue with the roles \['user'"):
        render_chat(DIALOGUE, tokenizer)


def test_no_template_and_rewriting_template() -> None:
    with pytest.raises(CrossdiffError, match="no chat template"):
        render_chat(DIALOGUE, word_tokenizer(chat=False))
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(CrossdiffError, match="verbatim"):
        render_chat(DIALOGUE, tokenizer)
