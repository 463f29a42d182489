from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_crossdiff import (
    Crosscoder,
    CrosscoderConfig,
    HookedModelPair,
    TextSource,
    token_sequences,
)
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.interventions import TokenRoles
from sae_crossdiff.interventions.positions import padded
from sae_crossdiff.testbeds.dialogues import load_dialogues
from tests.tiny_models import save_tiny_model

FAMILIES = ["gemma2", "gemma3", "llama"]
SITE = "blocks.1.hook_resid_post"


def random_crosscoder(pair: HookedModelPair, d_sae: int = 40, seed: int = 3) -> Crosscoder:
    """Random weights, scaled so that about a third of the latents fire; nothing is symmetric."""
    generator = torch.Generator().manual_seed(seed)
    config = CrosscoderConfig(d_in=sum(pair.d_ins), d_sae=d_sae, d_ins=list(pair.d_ins))
    config.metadata.hook_name = pair.hook_name
    crosscoder = Crosscoder(config)
    acts = pair.activations(torch.randint(9, 120, (4, 12), generator=generator))
    scale = acts.norm(dim=-1).mean()
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            weight: Any = getattr(crosscoder, name)
            weight.copy_(torch.randn(weight.shape, generator=generator))
        crosscoder.W_enc.div_(scale)
        crosscoder.W_dec.mul_(0.1 * scale / d_sae**0.5)
        crosscoder.threshold.copy_(torch.rand(d_sae, generator=generator) * 0.6)
    return crosscoder


@pytest.fixture(scope="session", params=FAMILIES)
def family_pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> HookedModelPair:
    """Two random models of one family; Gemma's sliding window is shorter than the texts."""
    root: Path = tmp_path_factory.mktemp(request.param)
    folders = [
        save_tiny_model(root / name, request.param, seed=seed, sliding_window=6)
        for seed, name in enumerate(("base", "chat"))
    ]
    return HookedModelPair.from_pretrained(*folders, hook_name=SITE)


@pytest.fixture(scope="session")
def family_crosscoder(family_pair: HookedModelPair) -> Crosscoder:
    return random_crosscoder(family_pair)


@pytest.fixture(scope="session")
def crosscoder(pair: HookedModelPair) -> Crosscoder:
    return random_crosscoder(pair)


@pytest.fixture(scope="session")
def sequences(pair: HookedModelPair) -> list[TokenSequence]:
    """Eight dialogues, two of them with two turns."""
    dialogues = load_dialogues("analysis")
    one = [d for d in dialogues if len(d.messages) == 2][:6]
    two = [d for d in dialogues if len(d.messages) == 4][:2]
    source = TextSource([d.messages for d in (*one, *two)], kind="chat")
    return list(token_sequences([source], pair.tokenizer))


@pytest.fixture(scope="session")
def chat_batch(sequences: list[TokenSequence]) -> tuple[torch.Tensor, TokenRoles]:
    return padded([s.ids for s in sequences]), TokenRoles.of(sequences)


def plain_batch(shape: tuple[int, int] = (3, 12)) -> tuple[torch.Tensor, TokenRoles]:
    """Random words after BOS, without any chat."""
    tokens = torch.randint(9, 120, shape)
    tokens[:, 0] = 2
    return tokens, TokenRoles.plain(tokens, special_ids=[0, 2])
