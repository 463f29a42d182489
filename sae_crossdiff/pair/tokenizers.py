"""Do the tokenizers of two models give the same ids? A crosscoder is meaningless if not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from sae_crossdiff.errors import CrossdiffError

PROBE_TEXT = (
    "The quick brown fox, 3.14 × 10² naïve cafés — 你好!\n\tdef f(x): return x**2  # comment\n"
)
PROBE_DIALOGUE = [
    {"role": "user", "content": "Hello, who are you?"},
    {"role": "assistant", "content": "I am a model."},
]
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
MAX_SHOWN = 5


def check_tokenizers_agree(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    """Raise `CrossdiffError` unless all tokenizers map the same text to the same ids.

    Compared with the first one: the vocabulary, the BOS token, the ids of a probe text, and the
    ids of a probe dialogue rendered with the (last) chat template. The vocabulary may be larger
    in one model, as long as no shared token changes its id and the extra tokens do not occur in
    the probes. The roles of EOS and padding may differ, as they do in official pairs.
    """
    (first_name, first), *others = tokenizers.items()
    rendered = _rendered_probe(tokenizers)
    for name, other in others:
        names = f"{first_name!r} and {name!r}"
        _check_vocabulary(first, other, names)
        if first.bos_token != other.bos_token:
            raise _disagreement(
                names, f"BOS is {first.bos_token!r} in one, {other.bos_token!r} in the other"
            )
        for text in filter(None, (PROBE_TEXT, rendered)):
            _check_ids(first, other, names, text)


def _check_vocabulary(
    first: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, names: str
) -> None:
    ours, theirs = first.get_vocab(), other.get_vocab()
    moved = [
        f"{token!r}: {id_} / {theirs[token]}"
        for token, id_ in sorted(ours.items(), key=lambda item: item[1])
        if theirs.get(token, id_) != id_
    ]
    if moved:
        shown = ", ".join(moved[:MAX_SHOWN])
        raise _disagreement(names, f"{len(moved)} tokens have other ids ({shown})")
    if not ours.keys() & theirs.keys():
        raise _disagreement(names, "they share no token at all")


def _check_ids(
    first: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, names: str, text: str
) -> None:
    ours = first(text, add_special_tokens=False)["input_ids"]
    theirs = other(text, add_special_tokens=False)["input_ids"]
    if ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
    raise _disagreement(
        names,
        f"{text[:30]!r}... gives ids {ours[at : at + 4]} / {theirs[at : at + 4]} from token {at} on"
        f" ({first.decode(ours[at : at + 4])!r})",
    )


def _rendered_probe(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> str | None:
    for tokenizer in reversed(list(tokenizers.values())):
        if getattr(tokenizer, "chat_template", None):
            return str(tokenizer.apply_chat_template(PROBE_DIALOGUE, tokenize=False))
    return None


def _disagreement(names: str, what: str) -> CrossdiffError:
    return CrossdiffError(
        f"the tokenizers of {names} disagree: {what}. A crosscoder needs the same token ids in "
        "every model: choose a fine-tune that kept its base model's tokenizer"
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Twelve hex digits over the vocabulary and the special tokens, for provenance."""
    content = {
        "vocab": sorted(tokenizer.get_vocab().items()),
        "special": {name: str(getattr(tokenizer, name, None)) for name in SPECIAL_TOKENS},
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
