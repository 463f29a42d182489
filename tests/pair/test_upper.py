"""The layers above a site, run by themselves, against whole forwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_crossdiff import CrossdiffError
from sae_crossdiff.pair import UpperLayers, load_model, read_activations
from tests.tiny_models import save_tiny_model


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "llama", "qwen2", "gpt2"])
def test_upper_layers_continue_a_residual_stream(family: str, tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path, family, sliding_window=6))
    tokens = torch.randint(9, 128, (3, 10))
    at = torch.rand(3, 10) < 0.4
    for site in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre"):
        acts = read_activations(model, site, tokens)
        upper = UpperLayers(model, site)
        torch.testing.assert_close(upper(acts, tokens), model(tokens), rtol=0, atol=0)
        torch.testing.assert_close(upper(acts, tokens, at=at), model(tokens)[at])
        edited = model.run_with_hooks(
            tokens, fwd_hooks=[("blocks.1.hook_out", lambda t, hook: t * 0.5)]
        )
        torch.testing.assert_close(upper(acts * 0.5, tokens), edited, rtol=0, atol=0)
        assert (edited - model(tokens)).abs().max() > 0.05
    with pytest.raises(RuntimeError), torch.no_grad():
        upper(acts[..., :-1], tokens)
    torch.testing.assert_close(upper(acts, tokens), model(tokens), rtol=0, atol=0)


@torch.no_grad()
def test_upper_layers_of_a_hooked_transformer() -> None:
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=3, d_model=16, n_ctx=32, d_head=4, n_heads=4, d_vocab=50, act_fn="relu", seed=0
        )
    )
    tokens = torch.randint(0, 50, (2, 6))
    at = torch.rand(2, 6) < 0.5
    acts = read_activations(model, "blocks.1.hook_resid_post", tokens)
    upper = UpperLayers(model, "blocks.1.hook_resid_post")
    torch.testing.assert_close(upper(acts, tokens), model(tokens))
    torch.testing.assert_close(upper(acts, tokens, at=at), model(tokens)[at])


def test_sites_that_do_not_determine_what_lies_above(tmp_path: Path) -> None:
    model = load_model(save_tiny_model(tmp_path))
    with pytest.raises(CrossdiffError, match="not a residual stream"):
        UpperLayers(model, "blocks.1.hook_mlp_out")
    with pytest.raises(CrossdiffError, match="after the first block"):
        UpperLayers(model, "blocks.0.hook_resid_pre")
