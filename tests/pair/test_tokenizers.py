from __future__ import annotations

import pytest

from sae_crossdiff import CrossdiffError
from sae_crossdiff.pair import check_tokenizers_agree, tokenizer_hash
from tests.tiny_models import WORDS, word_tokenizer


def test_same_vocabulary_agrees_with_or_without_template() -> None:
    check_tokenizers_agree({"base": word_tokenizer(chat=False), "chat": word_tokenizer()})


def test_moved_tokens_are_named() -> None:
    swapped = [*WORDS]
    swapped[20], swapped[21] = swapped[21], swapped[20]
    with pytest.raises(CrossdiffError, match=r"2 tokens have other ids \('w11'.*tokenizer"):
        check_tokenizers_agree({"base": word_tokenizer(), "chat": word_tokenizer(swapped)})


def test_template_tokens_that_only_one_knows() -> None:
    base = word_tokenizer([w if w != "<start_of_turn>" else "other" for w in WORDS], chat=False)
    with pytest.raises(CrossdiffError, match="disagree"):
        check_tokenizers_agree({"base": base, "chat": word_tokenizer()})


def test_roles_of_eos_and_padding_may_differ_as_in_official_pairs() -> None:
    chat = word_tokenizer()
    chat.eos_token, chat.pad_token = "<end_of_turn>", "<unk>"
    check_tokenizers_agree({"base": word_tokenizer(chat=False), "chat": chat})
    chat.bos_token = "<unk>"
    with pytest.raises(CrossdiffError, match="BOS is '<bos>' in one, '<unk>'"):
        check_tokenizers_agree({"base": word_tokenizer(chat=False), "chat": chat})


def test_hash_depends_on_the_vocabulary() -> None:
    assert tokenizer_hash(word_tokenizer()) == tokenizer_hash(word_tokenizer(chat=False))
    assert tokenizer_hash(word_tokenizer()) != tokenizer_hash(word_tokenizer(WORDS[:-1]))
