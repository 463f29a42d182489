from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_crossdiff import Crosscoder, CrossdiffError, HookedModelPair
from sae_crossdiff.interventions import Exclusions, attribute, chat_prompt, plain_prompt

CANONICAL = "blocks.1.hook_out"


def test_gradients_equal_finite_differences_and_exact_equals_ablation(
    family_pair: HookedModelPair, family_crosscoder: Crosscoder
) -> None:
    pair, crosscoder = family_pair, family_crosscoder
    prompt = plain_prompt("w1 w2 w3 w4 w5", pair.tokenizer)
    tokens = torch.from_numpy(prompt.ids)[None]
    found = attribute(pair, crosscoder, prompt, against=20, n_exact=4)
    chat = pair.models["chat"]

    @torch.no_grad()
    def metric(latent: int, scale: float) -> float:
        """The chat model's logit difference with `scale` of one latent's difference taken away."""
        acts = pair.activations(tokens)
        W_base, W_chat = crosscoder.W_dec_per_model
        code = crosscoder.encode(acts)[..., latent, None]
        code[:, 0] = 0  # BOS
        change = scale * code * (W_chat - W_base)[latent]
        hook = (CANONICAL, lambda t, hook: t - change)
        logits = chat.run_with_hooks(tokens, fwd_hooks=[hook])[0, -1]
        return float(logits[found.token] - logits[20])

    assert found.token == int(chat(tokens)[0, -1].argmax())
    assert found.totals["chat"] == pytest.approx(metric(0, 0.0), abs=1e-5)
    for latent in found.latents.index[:4]:
        row = found.latents.loc[latent]
        slope = (metric(latent, -0.02) - metric(latent, 0.02)) / 0.04
        assert row["gradient"] == pytest.approx(slope, rel=0.02, abs=2e-3)
        exact = metric(latent, 0.0) - metric(latent, 1.0)
        assert row["exact"] == pytest.approx(exact, rel=1e-3, abs=1e-4)
    assert found.latents["exact"].notna().sum() == 4


def test_direct_effect_is_the_whole_effect_without_layers_above(
    family_pair: HookedModelPair, family_crosscoder: Crosscoder
) -> None:
    """At the last block nothing lies above the site: gradient and direct effect are the same."""
    top = HookedModelPair(dict(family_pair.models.items()), "blocks.3.hook_resid_post")
    prompt = plain_prompt("w1 w2 w3 w4 w5", top.tokenizer)
    found = attribute(top, family_crosscoder, prompt)
    np.testing.assert_allclose(found.latents["direct"], found.latents["gradient"], atol=1e-5)
    assert found.latents["gradient"].abs().max() > 1e-3
    lower = attribute(family_pair, family_crosscoder, prompt)
    assert not np.allclose(lower.latents["direct"], lower.latents["gradient"], atol=1e-3)


def test_the_linearised_gap_is_complete(pair: HookedModelPair, crosscoder: Crosscoder) -> None:
    prompt = chat_prompt("What is a computer?", pair.tokenizer)
    found = attribute(pair, crosscoder, prompt, n_exact=0)
    tokens = torch.from_numpy(prompt.ids)[None]
    base, chat = pair.split(pair.activations(tokens)).values()
    leaf = chat.clone().requires_grad_()
    hook = (CANONICAL, lambda t, hook: leaf)
    with torch.enable_grad():
        logits = pair.models["chat"].run_with_hooks(tokens, fwd_hooks=[hook])[0, -1]
        (logits[found.token] - logits.mean()).backward()
    assert leaf.grad is not None
    gap = float((leaf.grad * (chat - base))[0, 1:].sum())
    parts = sum(found.totals[name] for name in ("latents", "bias", "error"))
    assert parts == pytest.approx(gap, rel=1e-3, abs=1e-4)
    per_entry = found.entries.groupby("latent")["gradient"].sum()
    np.testing.assert_allclose(found.latents["gradient"], per_entry[found.latents.index], rtol=1e-6)
    excluded = attribute(pair, crosscoder, prompt, n_exact=0, exclusions=Exclusions({"chat": 0.0}))
    assert excluded.entries.empty
    assert excluded.totals["gap"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(CrossdiffError, match="not in the vocabulary"):
        attribute(pair, crosscoder, prompt, token=5000)
