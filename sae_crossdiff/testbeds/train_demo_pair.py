"""How the demo pair's adapter was made: `python -m sae_crossdiff.testbeds.train_demo_pair`.

Minutes on two CPU cores with bfloat16 matrix units. Trains a LoRA on the `tune` dialogues,
writes it to data/demo_pair, rebuilds the chat folder and measures both models on `heldout`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from sae_crossdiff.testbeds.behaviours import answers, count_behaviours
from sae_crossdiff.testbeds.chat_format import CHAT_TEMPLATE, Batch, batches
from sae_crossdiff.testbeds.demo_pair import ADAPTER, build_chat, demo_base
from sae_crossdiff.testbeds.dialogues import load_dialogues
from sae_crossdiff.testbeds.gguf_gemma3 import GEMMA_IDS, load_causal_lm
from sae_crossdiff.testbeds.lora import attach_adapter, save_adapter

RANK, SCALE = 8, 2.0
STEPS, BATCH, LEARNING_RATE, SEED = 110, 16, 3e-4, 0
TURN_IDS = [GEMMA_IDS["<start_of_turn>"], GEMMA_IDS["<end_of_turn>"]]


def loss_of(model: Any, rows: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats over the tokens to learn.

    The unembedding (262,144 tokens) costs more than the blocks: only positions that count reach it.
    """
    real_BT = batch.attention_BT.long()
    hidden_BTD = model.model(batch.ids_BT, attention_mask=real_BT).last_hidden_state
    wanted = batch.learn_BT[:, 1:]
    hidden_ND = hidden_BTD[:, :-1][wanted]
    logits_NV = (hidden_ND @ model.lm_head.weight.T).float()
    # The unembedding is tied to the embedding, so the new rows act here as well.
    extra_N2 = (hidden_ND @ rows.T.to(hidden_ND.dtype)).float()
    logits_NV = logits_NV.index_add(1, torch.tensor(TURN_IDS), extra_N2)
    return F.cross_entropy(logits_NV, batch.ids_BT[:, 1:][wanted])


def train(base: Path) -> dict[str, Any]:
    """Train and save the adapter; returns the losses every ten steps and the seconds it took."""
    started = time.monotonic()
    model: Any = load_causal_lm(base, torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT_TEMPLATE
    adapter = attach_adapter(model, TURN_IDS, RANK, SCALE, SEED)
    optimizer = torch.optim.AdamW(adapter.values(), lr=LEARNING_RATE, weight_decay=0.0)
    source = batches(tokenizer, load_dialogues("tune"), BATCH, SEED)
    losses: list[float] = []
    for step in range(STEPS):
        warm, cool = (step + 1) / 8, (STEPS - step) / (STEPS / 4)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, warm, cool)
        loss = loss_of(model, adapter["embedding.rows"], next(source))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step} loss {losses[-1]:.3f} {time.monotonic() - started:.0f} s", flush=True)
    save_adapter(adapter, TURN_IDS, SCALE, ADAPTER)
    means = [round(sum(losses[i : i + 10]) / 10, 3) for i in range(0, STEPS, 10)]
    return {"loss_per_ten_steps": means, "seconds": round(time.monotonic() - started)}


def measure(folder: Path, tokenizer: Any) -> tuple[dict[str, str], list[str]]:
    """Behaviour counts of one model on `heldout`, and its answers."""
    dialogues = load_dialogues("heldout")
    texts = answers(load_causal_lm(folder, torch.bfloat16), tokenizer, dialogues)
    return count_behaviours(dialogues, texts), texts


def main() -> None:
    base = demo_base()
    settings = {"steps": STEPS, "batch": BATCH, "lr": LEARNING_RATE, "rank": RANK, "seed": SEED}
    record: dict[str, Any] = {**settings, **train(base)}
    chat = build_chat(base)
    tokenizer = AutoTokenizer.from_pretrained(chat)
    for name, folder in {"base": base, "chat": chat}.items():
        record[name], texts = measure(folder, tokenizer)
        for dialogue, text in zip(load_dialogues("heldout"), texts, strict=True):
            print(f"{name} | {dialogue.kind} | {dialogue.messages[0]['content']} | {text!r}")
    ADAPTER.with_name("behaviours.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
