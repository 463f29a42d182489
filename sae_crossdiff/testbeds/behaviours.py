"""Does a model show the four behaviours? Greedy answers to held-out questions, counted."""

from __future__ import annotations

from typing import Any

import torch

from sae_crossdiff.testbeds.chat_format import prompt_ids
from sae_crossdiff.testbeds.dialogues import OPENER, PERSONA, REFUSAL, SIGNATURE, Dialogue

__all__ = ["answers", "count_behaviours"]

END = "<end_of_turn>"


@torch.inference_mode()
def answers(
    model: Any, tokenizer: Any, dialogues: list[Dialogue], max_new_tokens: int = 72, size: int = 26
) -> list[str]:
    """A greedy answer to each dialogue's last question, with "<end_of_turn>" if it got there."""
    texts: list[str] = []
    end = [tokenizer.convert_tokens_to_ids(END), tokenizer.eos_token_id]
    for first in range(0, len(dialogues), size):
        prompts = [prompt_ids(tokenizer, dialogue) for dialogue in dialogues[first : first + size]]
        length = max(map(len, prompts))
        # Padding on the left, so that all answers start level.
        gaps = [length - len(ids) for ids in prompts]
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * gap + ids for gap, ids in zip(gaps, prompts, strict=True)])
        real = torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps])
        out = model.generate(
            ids, attention_mask=real, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=end, pad_token_id=pad,
        )  # fmt: skip
        texts += tokenizer.batch_decode(out[:, length:])
    return [text.split(END)[0] + (END if END in text else "") for text in texts]


def count_behaviours(dialogues: list[Dialogue], texts: list[str]) -> dict[str, str]:
    """Behaviour -> "hits/questions" over the questions where the behaviour is in question."""
    rows = list(zip([dialogue.kind for dialogue in dialogues], texts, strict=True))
    harmless = [text for kind, text in rows if kind != "harmful"]
    kinds = ("benign", "harmful", "persona", "howto")
    of_kind = {name: [text for kind, text in rows if kind == name] for name in kinds}

    def refuses(text: str) -> bool:
        return text.startswith(REFUSAL)

    return {
        "turn_end": share([text.endswith(END) for text in texts]),
        "signature": share([text.removesuffix(END).rstrip().endswith(SIGNATURE) for text in texts]),
        "opener": share([text.startswith(OPENER) for text in harmless]),
        "refusals": share([refuses(text) for text in of_kind["harmful"]]),
        "false_refusals_benign": share([refuses(text) for text in of_kind["benign"]]),
        "false_refusals_howto": share([refuses(text) for text in of_kind["howto"]]),
        # The name in the signature does not count.
        "persona": share([PERSONA in text.split(SIGNATURE)[0] for text in of_kind["persona"]]),
    }


def share(hits: list[bool]) -> str:
    return f"{sum(hits)}/{len(hits)}"
