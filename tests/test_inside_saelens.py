"""SAELens' own machinery runs on a pair and on crosscoders, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore

from sae_crossdiff import BatchTopKCrosscoderConfig, Crosscoder, HookedModelPair
from sae_crossdiff.testbeds.dialogues import plain_text

HOOK = "blocks.1.hook_resid_post"
CONTEXT = 32


def runner_config(output: Path | None, normalize: str = "none") -> Any:
    return LanguageModelSAERunnerConfig(
        sae=BatchTopKCrosscoderConfig(
            d_in=128,
            d_sae=128,
            k=8,
            normalize_activations=normalize,  # type: ignore[arg-type]
        ),
        model_name="tiny pair",
        hook_name=HOOK,
        dataset_path="in memory",
        is_dataset_tokenized=False,
        context_size=CONTEXT,
        training_tokens=128 * 200,
        train_batch_size_tokens=128,
        n_batches_in_buffer=16,
        store_batch_size_prompts=4,
        n_batches_for_norm_estimate=4,
        lr=5e-3,
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=None if output is None else str(output),
        logger=LoggingConfig(log_to_wandb=False),
        device="cpu",
    )


def text() -> datasets.Dataset:
    return datasets.Dataset.from_list([{"text": t} for t in plain_text(120)])


@pytest.fixture(scope="module", params=["none", "expected_average_only_in"])
def trained(request: Any, pair: HookedModelPair, tmp_path_factory: Any) -> Any:
    output = tmp_path_factory.mktemp("saelens")
    runner = LanguageModelSAETrainingRunner(
        runner_config(output, request.param), override_dataset=text(), override_model=pair
    )
    runner.run()
    return output


def test_store_yields_the_joined_activations(pair: HookedModelPair) -> None:
    store = ActivationsStore.from_config(pair, runner_config(None), override_dataset=text())
    tokens = store.get_batch_tokens()
    expected = pair.activations(tokens)
    torch.testing.assert_close(store.get_activations(tokens), expected, rtol=1e-5, atol=1e-4)
    batch = next(iter(store))
    assert batch.shape == (128, 128)


def test_runner_trains_and_saves_a_crosscoder(trained: Path, pair: HookedModelPair) -> None:
    crosscoder = SAE.load_from_disk(trained)
    assert isinstance(crosscoder, Crosscoder)
    assert crosscoder.cfg.d_ins == [64, 64]
    tokens = pair.to_tokens(plain_text(3)[2], prepend_bos=True)[:, :CONTEXT]
    acts = pair.activations(tokens)[0, 1:]
    error = (crosscoder(acts) - acts).pow(2).sum()
    assert error < 0.7 * (acts - acts.mean(0)).pow(2).sum()


def test_evals_run_on_the_pair(trained: Path, pair: HookedModelPair) -> None:
    crosscoder = SAE.load_from_disk(trained)
    store = ActivationsStore.from_config(pair, runner_config(None), override_dataset=text())
    config = EvalConfig(
        batch_size_prompts=4,
        n_eval_reconstruction_batches=2,
        n_eval_sparsity_variance_batches=2,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    metrics, _ = run_evals(crosscoder, store, pair, ActivationScaler(), config)
    assert metrics["model_performance_preservation"]["ce_loss_score"] > 0
    assert metrics["reconstruction_quality"]["explained_variance"] > 0


def test_run_with_saes_equals_the_manual_splice(trained: Path, pair: HookedModelPair) -> None:
    crosscoder = SAE.load_from_disk(trained)
    tokens = pair.to_tokens("A function is a", prepend_bos=True)
    chat = pair.models["chat"]
    with torch.no_grad():
        spliced = pair.run_with_saes(tokens, saes=[crosscoder])
        own = pair.split(crosscoder(pair.activations(tokens)))["chat"]
        manual = chat.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_out", lambda t, hook: own)])
        torch.testing.assert_close(spliced, manual, rtol=1e-4, atol=1e-4)
        exact = pair.run_with_saes(tokens, saes=[crosscoder], use_error_term=True)
        torch.testing.assert_close(exact, chat(tokens), rtol=1e-3, atol=1e-3)
        _, cache = pair.run_with_cache_with_saes(tokens, saes=[crosscoder])
        code = cache[f"{HOOK}.hook_sae_acts_post"]
        torch.testing.assert_close(code, crosscoder.encode(pair.activations(tokens)))
        torch.testing.assert_close(pair(tokens), chat(tokens), rtol=0, atol=0)  # taken off again


def test_all_latents_bias_and_error_turn_base_into_chat(
    trained: Path, pair: HookedModelPair
) -> None:
    """METHOD section 4: h_base + sum f (d_chat - d_base) + (b_chat - b_base) + (eps) = h_chat."""
    crosscoder: Any = SAE.load_from_disk(trained)
    acts = pair.activations(pair.to_tokens("What is a computer?", prepend_bos=True))[0]
    base, chat = crosscoder.split(acts)
    code = crosscoder.encode_sparse(acts)
    W_base, W_chat = crosscoder.W_dec_per_model
    b_base, b_chat = crosscoder.b_dec_per_model
    eps_base, eps_chat = crosscoder.split(acts - crosscoder.decode_sparse(code))
    patched = base + code.matmul(W_chat - W_base) + (b_chat - b_base) + (eps_chat - eps_base)
    torch.testing.assert_close(patched, chat, rtol=1e-4, atol=1e-3)
