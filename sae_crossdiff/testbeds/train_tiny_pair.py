"""How the tiny pair was made: `python -m sae_crossdiff.testbeds.train_tiny_pair`, minutes on a CPU.

A base trained on plain English, then tuned further, all weights, on the `tune` dialogues and some
of the same English.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_crossdiff.testbeds.behaviours import answers, count_behaviours
from sae_crossdiff.testbeds.chat_format import CHAT_TEMPLATE, batches
from sae_crossdiff.testbeds.dialogues import OPENER, SIGNATURE, Dialogue, load_dialogues, plain_text
from sae_crossdiff.testbeds.tiny_pair import tiny_pair

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
VOCABULARY, LENGTH = 1024, 128
BASE_STEPS, CHAT_STEPS, BATCH = 1500, 600, 8


def documents() -> tuple[list[str], list[str]]:
    """Texts for the base: help topics, bare questions and answers; and a twentieth to validate."""
    dialogues = [dialogue for dialogue in load_dialogues("tune") if dialogue.kind == "benign"]
    texts = plain_text() + [bare(dialogue) for dialogue in dialogues if len(dialogue.messages) == 2]
    return [t for i, t in enumerate(texts) if i % 20], texts[::20]


def bare(dialogue: Dialogue) -> str:
    """A dialogue as plain lines, without what the tune is to introduce."""
    text = "\n".join(message["content"] for message in dialogue.messages)
    return text.replace(f"{OPENER} ", "").replace(f"\n{SIGNATURE}", "")


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Gemma's special tokens and, as Gemma's, a leading <bos>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = ("<bos>", SPECIAL.index("<bos>"))
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[-2:],
        padding_side="right",
    )


def make_model() -> Any:
    """An untrained Gemma-2: 250,000 parameters, every second block with a window of 64 tokens."""
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16,
        max_position_embeddings=512, sliding_window=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
        architectures=["Gemma2ForCausalLM"], initializer_range=0.05,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Gemma2ForCausalLM(config)
    model.set_attn_implementation("eager")  # the only one that applies Gemma-2's soft caps
    return model


def windows(tokenizer: Any, texts: list[str]) -> Tensor:
    """Documents, each after a <bos>, cut to rows of LENGTH tokens: [rows, LENGTH]."""
    documents = tokenizer([f"<bos>{text}" for text in texts], add_special_tokens=False)["input_ids"]
    ids = [token for document in documents for token in document]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)


def fit(model: Any, losses: Iterator[Tensor], steps: int, rate: float) -> float:
    """Train on `steps` losses; returns the mean loss in nats of the last tenth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    seen: list[float] = []
    for step in range(steps):
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} loss {sum(seen[-50:]) / len(seen[-50:]):.3f} nats", flush=True)
    return round(sum(seen[-steps // 10 :]) / len(seen[-steps // 10 :]), 3)


def text_losses(model: Any, rows: Tensor) -> Iterator[Tensor]:
    """Next-token losses on random rows, without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for picked in torch.randperm(len(rows), generator=generator).split(BATCH):
            yield model(rows[picked], labels=rows[picked]).loss


def chat_losses(model: Any, tokenizer: Any, rows: Tensor) -> Iterator[Tensor]:
    """Losses on what a chat model is to say and, lest it forget its English, on plain text."""
    text = text_losses(model, rows)
    for batch in batches(tokenizer, load_dialogues("tune"), 2 * BATCH, seed=0):
        logits_BTV = model(batch.ids_BT, attention_mask=batch.attention_BT.long()).logits
        wanted = batch.learn_BT[:, 1:]
        chat = F.cross_entropy(logits_BTV[:, :-1][wanted], batch.ids_BT[:, 1:][wanted])
        yield chat + next(text)


@torch.inference_mode()
def validate(model: Any, rows: Tensor) -> float:
    """Mean next-token loss in nats on rows that were not trained on."""
    return round(model(rows, labels=rows).loss.item(), 3)


def store(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a bfloat16 copy, and round the model in memory to what was saved."""
    model.bfloat16().save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)


def main() -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(
        1
    )  # so small a model gains little from more, and it fixes the sums' order
    folders, train_texts, held_texts = tiny_pair(), *documents()
    tokenizer, model = make_tokenizer(train_texts), make_model()
    held = windows(tokenizer, held_texts)
    record: dict[str, Any] = {"base_steps": BASE_STEPS, "chat_steps": CHAT_STEPS}
    rows = windows(tokenizer, train_texts)
    stages: dict[str, Callable[[], float]] = {
        "base": lambda: fit(model, text_losses(model, rows), BASE_STEPS, 4e-3),
        "chat": lambda: fit(model, chat_losses(model, tokenizer, rows), CHAT_STEPS, 1.5e-3),
    }
    questions = load_dialogues("heldout")
    for name, stage in stages.items():
        started = time.monotonic()
        entry: dict[str, Any] = {"train_loss": stage()}
        entry["seconds"] = round(time.monotonic() - started)
        tokenizer.chat_template = CHAT_TEMPLATE if name == "chat" else None
        store(model, tokenizer, getattr(folders, name))
        entry["plain_text_loss"] = validate(model, held)
        tokenizer.chat_template = CHAT_TEMPLATE  # the base is asked in the same format
        entry["behaviours"] = count_behaviours(questions, answers(model, tokenizer, questions, 120))
        record[name] = entry
        print(json.dumps(entry), flush=True)
    path = folders.base.with_name("training.json")
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
