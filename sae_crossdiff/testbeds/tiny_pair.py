"""The test-suite's pair: two tiny trained Gemma-2 models that ship with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from sae_crossdiff.testbeds.folders import PairFolders

__all__ = ["tiny_pair"]


def tiny_pair() -> PairFolders:
    """Folders of a tiny base and its chat tune: 3 blocks, d_model 64, 1,024 tokens, bfloat16.

    Both were trained on real English, so their activations have structure, and the chat model shows
    the behaviours as `data/tiny_pair/training.json` counts them. For tests, not for science.
    """
    folder = Path(str(files("sae_crossdiff.testbeds"))) / "data" / "tiny_pair"
    return PairFolders(folder / "base", folder / "chat")
