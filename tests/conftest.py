from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sae_crossdiff  # noqa: F401  (registers the architectures)
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.testbeds.tiny_pair import tiny_pair
from tests.tiny_models import save_tiny_model

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pair() -> HookedModelPair:
    """The shipped tiny pair: trained Gemma-2-architecture models, 64 wide each."""
    folders = tiny_pair()
    return HookedModelPair.from_pretrained(folders.base, folders.chat, hook_name=HOOK)


@pytest.fixture(scope="session")
def random_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random Gemma-2 models of width 32 with a word-level tokenizer."""
    root = tmp_path_factory.mktemp("models")
    return (
        save_tiny_model(root / "base", seed=0, chat=False),
        save_tiny_model(root / "chat", seed=1),
    )


@pytest.fixture(scope="session")
def random_pair(random_folders: tuple[Path, Path]) -> HookedModelPair:
    return HookedModelPair.from_pretrained(*random_folders, hook_name="blocks.2.hook_resid_post")
