"""One side of a crosscoder inside SAELens' own methods, against manual computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.saes.sae import SAE
from torch import Tensor

from sae_crossdiff import Crosscoder, CrossdiffError, HookedModelPair
from sae_crossdiff.interventions import CrosscoderView, attach
from sae_crossdiff.pair import load_model, read_activations
from tests.interventions.conftest import FAMILIES, SITE, random_crosscoder
from tests.tiny_models import save_tiny_model

CANONICAL = "blocks.1.hook_out"


@pytest.fixture(params=FAMILIES)
def models(request: Any, tmp_path: Path) -> dict[str, Any]:
    folders: list[Path] = [
        save_tiny_model(tmp_path / name, request.param, seed=seed)
        for seed, name in enumerate(("base", "chat"))
    ]
    return {
        "base": load_model(folders[0]),
        "chat": SAETransformerBridge.boot_transformers(str(folders[1])),
    }


@pytest.fixture
def crosscoder(models: dict[str, Any]) -> Crosscoder:
    return random_crosscoder(HookedModelPair(models, SITE))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(9, 120, (2, 7))


def joined(models: dict[str, Any], tokens: Tensor) -> Tensor:
    return torch.cat([read_activations(m, SITE, tokens) for m in models.values()], dim=-1)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_view_splices_codes_caches_and_ablates_like_the_manual_computation(
    models: dict[str, Any], crosscoder: Crosscoder, tokens: Tensor
) -> None:
    chat, acts = models["chat"], joined(models, tokens)
    code = crosscoder.encode(acts)
    assert 0.05 < (code > 0).float().mean() < 0.6
    own = slice(32, None)
    reconstruction = code @ crosscoder.W_dec[:, own] + crosscoder.b_dec[own]

    def spliced(new: Tensor) -> Tensor:
        return chat.run_with_hooks(tokens, fwd_hooks=[(CANONICAL, lambda t, hook: new)])

    latent = int((code > 0).sum((0, 1)).argmax())
    removed = code[..., latent, None] * crosscoder.W_dec[latent, own]

    def ablate(t: Tensor, hook: Any) -> Tensor:
        t[..., latent] = 0
        return t

    # All before the first SAE: SAELens' bridge loses the hooks of a site once an SAE was there.
    plain, manual = chat(tokens), spliced(reconstruction)
    manually_ablated = spliced(acts[..., own] - removed)
    with attach(crosscoder, chat, paired_with=models["base"]) as view:
        assert isinstance(view, SAE)
        close(chat.run_with_saes(tokens, saes=[view]), manual)
        close(chat.run_with_saes(tokens, saes=[view], use_error_term=True), plain)
        _, cache = chat.run_with_cache_with_saes(tokens, saes=[view])
        close(cache[f"{CANONICAL}.hook_sae_acts_post"], code)
        with chat.saes(saes=[view], use_error_term=True):
            hook = (f"{CANONICAL}.hook_sae_acts_post", ablate)
            ablated = chat.run_with_hooks(tokens, fwd_hooks=[hook])
        close(ablated, manually_ablated)
        assert (ablated - plain).abs().max() > 1e-3
    torch.testing.assert_close(chat(tokens), plain, rtol=0, atol=0)
    assert "forward" not in vars(chat)


@torch.no_grad()
def test_base_side_and_permanent_add_sae(
    models: dict[str, Any], crosscoder: Crosscoder, tokens: Tensor, tmp_path: Path
) -> None:
    chat, base = models["chat"], models["base"]
    swapped = random_crosscoder(HookedModelPair({"base": chat, "chat": base}, SITE))
    with attach(swapped, chat, paired_with=base, side="base") as view:
        acts = joined({"base": chat, "chat": base}, tokens)
        chat.add_sae(view)
        try:
            _, cache = chat.run_with_cache(tokens)
        finally:
            chat.reset_saes()
    close(cache[f"{CANONICAL}.hook_sae_acts_post"], swapped.encode(acts))


@torch.no_grad()
def test_text_and_left_padding_reach_the_other_model(
    models: dict[str, Any], crosscoder: Crosscoder, tokens: Tensor
) -> None:
    chat = models["chat"]
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    with attach(crosscoder, chat, paired_with=models["base"]) as view, chat.saes(saes=[view]):
        _, cache = chat.run_with_cache(tokens, attention_mask=mask)
        _, from_text = chat.run_with_cache("w5 w6 w7")
    code = cache[f"{CANONICAL}.hook_sae_acts_post"]
    close(code[0, 3:], crosscoder.encode(joined(models, tokens[:1, 3:]))[0])
    ids = chat.to_tokens("w5 w6 w7")
    close(from_text[f"{CANONICAL}.hook_sae_acts_post"], crosscoder.encode(joined(models, ids)))


def test_a_view_shares_memory_and_is_not_saved(crosscoder: Crosscoder, tmp_path: Path) -> None:
    view = CrosscoderView(crosscoder, "chat")
    assert view.W_dec.data_ptr() == crosscoder.W_dec_per_model[1].data_ptr()
    with pytest.raises(CrossdiffError, match="save the crosscoder"):
        view.save_model(tmp_path)


def test_unpaired_use_and_wrong_pairings_raise(
    models: dict[str, Any], crosscoder: Crosscoder, tokens: Tensor
) -> None:
    chat, base = models["chat"], models["base"]
    view = CrosscoderView(crosscoder, "chat", CANONICAL)
    with pytest.raises(CrossdiffError, match="paired_with"):
        chat.run_with_saes(tokens, saes=[view])
    with (
        pytest.raises(CrossdiffError, match="same tokens"),
        view.paired({"base": torch.ones(5, 32)}),
    ):
        view.encode(torch.ones(4, 32))
    with pytest.raises(CrossdiffError, match="also needs"), view.paired({}):
        pass
    with (
        pytest.raises(CrossdiffError, match="cannot hold SAEs"),
        attach(crosscoder, base, paired_with=chat, side="base"),
    ):
        pass
    with (
        pytest.raises(CrossdiffError, match="must be paired with"),
        attach(crosscoder, chat, paired_with={"other": base}),
    ):
        pass
    with (
        attach(crosscoder, chat, paired_with=base) as attached,
        pytest.raises(CrossdiffError, match="one token at a time"),
    ):
        chat.run_with_saes(tokens, saes=[attached], use_cache=True)
    assert not chat.acts_to_saes
    with pytest.raises(CrossdiffError, match="paired_with"):
        attached.encode(torch.ones(2, 7, 32))
