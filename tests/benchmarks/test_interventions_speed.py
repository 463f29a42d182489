"""The causal test against two plain forwards. Run with: pytest tests/benchmarks --benchmark-only"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_crossdiff import HookedModelPair, TextSource, token_sequences
from sae_crossdiff.interventions import kl_experiment, standard_conditions
from sae_crossdiff.interventions.positions import padded
from sae_crossdiff.testbeds.dialogues import load_dialogues
from tests.interventions.conftest import random_crosscoder


@pytest.mark.benchmark(group="causal test")
@pytest.mark.parametrize("what", ["two plain forwards", "ten conditions"])
def test_kl(benchmark: Any, pair: HookedModelPair, what: str) -> None:
    crosscoder = random_crosscoder(pair)
    text = TextSource([d.messages for d in load_dialogues("heldout")[:32]], kind="chat")
    sequences = list(token_sequences([text], pair.tokenizer))
    batches = [padded([s.ids for s in sequences[i : i + 16]]) for i in (0, 16)]
    sets = {f"set {i}": range(i, 40, 5) for i in range(10 - len(standard_conditions()))}

    @torch.no_grad()
    def plain() -> None:
        for tokens in batches:
            for model in pair.models.values():
                model(tokens)

    def causal() -> None:
        kl_experiment(pair, crosscoder, sequences, sets)

    run = plain if what.startswith("two") else causal
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
