from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_crossdiff import CrossdiffError, HookedModelPair
from sae_crossdiff.pair import load_model
from tests.tiny_models import save_tiny_model

SITE = "blocks.2.hook_resid_post"


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(9, 128, shape)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "llama", "qwen2", "gpt2"])
def test_hook_point_carries_both_residual_streams(family: str, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", family, seed=0)
    chat = save_tiny_model(tmp_path / "chat", family, seed=1)
    pair = HookedModelPair.from_pretrained(base, chat, hook_name=SITE)
    x = tokens(3, 10)
    with torch.no_grad():
        expected = torch.cat(
            [pair.models[name].run_with_cache(x)[1][SITE] for name in ("base", "chat")], dim=-1
        )
        _, cache = pair.run_with_cache(x, names_filter=[SITE])
        torch.testing.assert_close(cache[SITE], expected, rtol=0, atol=0)
        torch.testing.assert_close(pair.activations(x), expected, rtol=0, atol=0)
        torch.testing.assert_close(pair(x), pair.models["chat"](x), rtol=0, atol=0)


def test_truncated_forward_never_runs_the_layers_above(random_pair: HookedModelPair) -> None:
    ran: list[str] = []
    for name in ("base", "chat"):
        for layer in (2, 3):
            point = random_pair.models[name].hook_dict[f"blocks.{layer}.hook_in"]
            point.add_hook(lambda t, hook, n=name, i=layer: ran.append(f"{n}{i}"))
    try:
        random_pair(tokens(1, 4), stop_at_layer=3)
    finally:
        for name in ("base", "chat"):
            random_pair.models[name].reset_hooks()
    assert ran == ["base2", "chat2"]


def test_edit_at_the_pair_reaches_the_output_models_logits(random_pair: HookedModelPair) -> None:
    x = tokens(2, 6)
    with torch.no_grad():
        edited = random_pair.run_with_hooks(
            x, fwd_hooks=[(random_pair.hook_name, lambda t, hook: t * 0.5)]
        )
        direct = random_pair.models["chat"].run_with_hooks(
            x, fwd_hooks=[("blocks.2.hook_out", lambda t, hook: t * 0.5)]
        )
        torch.testing.assert_close(edited, direct, rtol=0, atol=0)
        assert (edited - random_pair(x)).abs().max() > 0.1


def test_hooks_are_gone_after_an_error(random_pair: HookedModelPair) -> None:
    x = tokens(1, 5)
    before = random_pair(x)

    def fail(t: torch.Tensor, hook: object) -> torch.Tensor:
        raise RuntimeError("user code")

    with pytest.raises(RuntimeError, match="user code"):
        random_pair.run_with_hooks(x, fwd_hooks=[(random_pair.hook_name, fail)])
    torch.testing.assert_close(random_pair(x), before, rtol=0, atol=0)
    for model in random_pair.models.values():
        assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_three_models_and_different_widths(tmp_path: Path) -> None:
    names = {"base": 32, "chat": 32, "code": 64}
    models = {
        name: load_model(save_tiny_model(tmp_path / name, "llama", seed=i, width=width))
        for i, (name, width) in enumerate(names.items())
    }
    pair = HookedModelPair(models, SITE, output_model="chat")
    assert pair.d_ins == [32, 32, 64]
    x = tokens(2, 5)
    parts = pair.split(pair.activations(x))
    assert [part.shape[-1] for part in parts.values()] == [32, 32, 64]
    torch.testing.assert_close(pair(x), models["chat"](x), rtol=0, atol=0)


def test_models_with_hooks_of_their_own_are_accepted(random_folders: tuple[Path, Path]) -> None:
    base, chat = (load_model(folder) for folder in random_folders)
    pair = HookedModelPair.from_pretrained(base, chat, hook_name=SITE)
    assert pair.models["base"] is base
    assert pair.models["chat"] is chat


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.9.hook_resid_post", "no hook point 'blocks.9.hook_resid_post'. The nearest"),
        ("blocks.1.attn.hook_pattern", "needs \\[batch, pos, d_model\\]"),
    ],
)
def test_wrong_hook_is_an_error(random_folders: tuple[Path, Path], hook: str, message: str) -> None:
    with pytest.raises(CrossdiffError, match=message):
        HookedModelPair.from_pretrained(*random_folders, hook_name=hook)


def test_missing_model_and_dtype_are_errors(random_folders: tuple[Path, Path]) -> None:
    with pytest.raises(CrossdiffError, match="no config.json"):
        HookedModelPair.from_pretrained("./nowhere", random_folders[1], hook_name=SITE)
    with pytest.raises(CrossdiffError, match="float16 overflows"):
        HookedModelPair.from_pretrained(*random_folders, hook_name=SITE, dtype="float16")


def test_stopping_before_the_site_is_an_error(random_pair: HookedModelPair) -> None:
    with pytest.raises(CrossdiffError, match="use at least 3"):
        random_pair(tokens(1, 3), stop_at_layer=2)


def test_hooked_transformers_and_saelens_bridges_are_accepted(
    random_folders: tuple[Path, Path],
) -> None:
    config = HookedTransformerConfig(
        n_layers=3, d_model=16, n_ctx=32, d_head=4, n_heads=4, d_vocab=50, act_fn="relu", seed=0
    )
    x = torch.randint(0, 50, (2, 6))
    models = {name: HookedTransformer(config) for name in ("base", "chat")}
    pair = HookedModelPair(models, "blocks.1.hook_resid_post")
    expected = [model.run_with_cache(x)[1]["blocks.1.hook_resid_post"] for model in models.values()]
    torch.testing.assert_close(pair.activations(x), torch.cat(expected, dim=-1))
    torch.testing.assert_close(pair(x), models["chat"](x))

    bridges = [SAETransformerBridge.boot_transformers(str(f)) for f in random_folders]
    pair = HookedModelPair.from_pretrained(*bridges, hook_name=SITE)  # an alias name
    x = tokens(2, 6)
    expected = [bridge.run_with_cache(x)[1]["blocks.2.hook_out"] for bridge in bridges]
    torch.testing.assert_close(pair.activations(x), torch.cat(expected, dim=-1))
