"""How the no-op adapter was made: `python -m sae_crossdiff.testbeds.train_noop_pair`.

Minutes on two CPU cores with bfloat16 matrix units. The same kind of LoRA as the demo pair's, as
many steps at the same rate, but on plain text, so that it changes weights and teaches nothing.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from sae_crossdiff.testbeds.demo_pair import demo_base
from sae_crossdiff.testbeds.dialogues import plain_text
from sae_crossdiff.testbeds.gguf_gemma3 import load_causal_lm
from sae_crossdiff.testbeds.lora import attach_adapter, save_adapter
from sae_crossdiff.testbeds.noop import NOOP_ADAPTER
from sae_crossdiff.testbeds.train_demo_pair import LEARNING_RATE, SCALE, SEED, TURN_IDS

STEPS, BATCH, LENGTH, LEARNED, RANK = 60, 8, 128, 192, 4


def main() -> None:
    started = time.monotonic()
    base = demo_base()
    model: Any = load_causal_lm(base, torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(plain_text(), add_special_tokens=False)["input_ids"]
    rows = torch.tensor(
        [
            [tokenizer.bos_token_id, *document[start : start + LENGTH - 1]]
            for document in ids
            for start in range(0, len(document) - LENGTH + 2, LENGTH - 1)
        ]
    )
    adapter = attach_adapter(model, TURN_IDS, RANK, SCALE, SEED)
    optimizer = torch.optim.AdamW(adapter.values(), lr=LEARNING_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(SEED)
    for step in range(STEPS):
        warm, cool = (step + 1) / 8, (STEPS - step) / (STEPS / 4)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, warm, cool)
        picked = rows[torch.randperm(len(rows), generator=generator)[:BATCH]]
        hidden = model.model(picked).last_hidden_state[:, :-1].flatten(0, 1)
        # The unembedding costs more than the blocks: only some positions reach it.
        places = torch.randperm(len(hidden), generator=generator)[:LEARNED]
        logits = (hidden[places] @ model.lm_head.weight.T).float()
        loss = F.cross_entropy(logits, picked[:, 1:].flatten()[places])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.values(), 1.0)
        optimizer.step()
        print(f"step {step} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)
    save_adapter(adapter, TURN_IDS, SCALE, NOOP_ADAPTER)


if __name__ == "__main__":
    main()
