"""Where a crosscoder must equal the stock SAELens class, it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig

from sae_crossdiff import (
    BatchTopKCrosscoder,
    BatchTopKCrosscoderConfig,
    Crosscoder,
    CrosscoderConfig,
    CrossdiffError,
    L1Crosscoder,
    L1CrosscoderConfig,
    load_crosscoder,
)

B, D, F = 64, 24, 48


def step_input(x: torch.Tensor, dead: torch.Tensor | None = None, **coefficients: float) -> Any:
    return TrainStepInput(
        sae_in=x,
        coefficients=coefficients,
        dead_neuron_mask=dead,
        n_training_steps=0,
        is_logging_step=False,
    )


def gradients(sae: Any, inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    output = sae.training_forward_pass(inputs)
    output.loss.backward()
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    return output.loss.detach(), {name: getattr(sae, name).grad for name in names}


def copy_weights(source: Any, target: Any) -> None:
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        getattr(target, name).data.copy_(getattr(source, name).data)


def randomise(sae: Any) -> None:
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        parameter = getattr(sae, name)
        parameter.data.copy_(torch.randn_like(parameter) * 0.3)


@pytest.mark.parametrize("layout", [{"d_ins": [D], "decoder_norm": "sum"}, {"decoder_norm": "l2"}])
def test_batchtopk_equals_saelens(layout: dict[str, Any]) -> None:
    stock = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=5, apply_b_dec_to_input=False)
    )
    randomise(stock)
    ours = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=D, d_sae=F, k=5, **layout))
    copy_weights(stock, ours)
    x = torch.randn(B, D)
    expected, expected_grads = gradients(stock, step_input(x))
    loss, grads = gradients(ours, step_input(x))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-5, atol=1e-5)
    # SAELens' code is scaled by the decoder norm, ours is not.
    torch.testing.assert_close(
        ours.encode(x) * ours.get_W_dec_norm(), stock.encode(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("layout", [{"d_ins": [D], "decoder_norm": "sum"}, {"decoder_norm": "l2"}])
def test_l1_equals_saelens_up_to_the_papers_half(layout: dict[str, Any]) -> None:
    """1/2 ||eps||^2 + mu f n  =  1/2 (||eps||^2 + 2 mu f n)."""
    mu = 0.7
    stock = StandardTrainingSAE(
        StandardTrainingSAEConfig(
            d_in=D, d_sae=F, l1_coefficient=2 * mu, apply_b_dec_to_input=False
        )
    )
    randomise(stock)
    ours = L1Crosscoder(L1CrosscoderConfig(d_in=D, d_sae=F, l1_coefficient=mu, **layout))
    copy_weights(stock, ours)
    x = torch.randn(B, D)
    expected, expected_grads = gradients(stock, step_input(x, l1=2 * mu))
    loss, grads = gradients(ours, step_input(x, l1=mu))
    torch.testing.assert_close(2 * loss, expected, rtol=1e-6, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(2 * grad, expected_grads[name], rtol=1e-5, atol=1e-5)


def trained_crosscoder(kind: str) -> Any:
    if kind == "batchtopk":
        crosscoder: Any = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=D, d_sae=F, k=5))
        randomise(crosscoder)
        crosscoder.training_forward_pass(step_input(torch.randn(B, D)))  # sets the threshold
        return crosscoder
    crosscoder = L1Crosscoder(L1CrosscoderConfig(d_in=D, d_sae=F))
    randomise(crosscoder)
    return crosscoder


@pytest.mark.parametrize("kind", ["batchtopk", "l1"])
def test_export_and_reload(kind: str, tmp_path: Path) -> None:
    trained = trained_crosscoder(kind)
    x = torch.randn(B, D)
    exported = trained.to_inference()
    trained.save_inference_model(tmp_path / "by_saelens")
    exported.save_model(tmp_path / "by_us")
    exported.save_as_jumprelu(tmp_path / "stock")
    for folder in ("by_saelens", "by_us", "stock"):
        loaded = SAE.load_from_disk(tmp_path / folder)
        torch.testing.assert_close(loaded(x), exported(x), rtol=0, atol=0)
        torch.testing.assert_close(loaded.encode(x), exported.encode(x), rtol=0, atol=0)
        is_ours = isinstance(loaded, Crosscoder)
        assert is_ours == (folder != "stock")
    assert type(SAE.load_from_disk(tmp_path / "stock")).__name__ == "JumpReLUSAE"
    # The exported code follows the rule keep f * n > theta.
    pre = (x @ trained.W_enc + trained.b_enc).relu()
    theta = float(trained.topk_threshold) if kind == "batchtopk" else 0.0
    expected = torch.where(pre * trained.total_decoder_norms() > theta, pre, 0)
    torch.testing.assert_close(exported.encode(x), expected)


def test_folded_weights_on_raw_input_equal_scaled_input() -> None:
    """METHOD trap 8: per-model factors, and a threshold that does not depend on them."""
    trained = trained_crosscoder("batchtopk")
    in_units = trained.to_inference()
    folded = trained.to_inference()
    mean, scale = torch.randn(D) * 50, [0.04, 3.0]
    folded.fold_normalization(mean, scale)
    factor = torch.tensor(scale).repeat_interleave(D // 2)
    x = torch.randn(256, D) / factor + mean
    expected_code = in_units.encode((x - mean) * factor)
    torch.testing.assert_close(folded.encode(x), expected_code, rtol=1e-4, atol=1e-4)
    expected = in_units.decode(expected_code) / factor + mean
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(folded.normalize(x), (x - mean) * factor)
    back = folded.in_training_units()
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
        torch.testing.assert_close(
            getattr(back, name), getattr(in_units, name), rtol=1e-5, atol=1e-4
        )
    with pytest.raises(CrossdiffError, match="already"):
        folded.fold_normalization(mean, scale)


def test_saelens_single_factor_is_remembered() -> None:
    trained = trained_crosscoder("batchtopk")
    x = torch.randn(B, D)
    before = trained.to_inference().encode(x * 0.5)
    trained.fold_activation_norm_scaling_factor(0.5)
    after = trained.to_inference()
    torch.testing.assert_close(after.encode(x), before, rtol=1e-5, atol=1e-6)
    assert after.activation_scale.tolist() == [0.5, 0.5]


def test_unset_threshold_is_never_saved() -> None:
    """METHOD trap 7."""
    untrained = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=D, d_sae=F, k=5))
    with pytest.raises(CrossdiffError, match="threshold was never set"):
        untrained.to_inference()


def test_views_and_widths() -> None:
    config = CrosscoderConfig(d_in=10, d_sae=F, d_ins=[4, 6])
    crosscoder = Crosscoder(config)
    randomise(crosscoder)
    base, chat = crosscoder.W_dec_per_model
    assert (base.shape, chat.shape) == ((F, 4), (F, 6))
    expected = torch.stack([base.norm(dim=-1), chat.norm(dim=-1)])
    torch.testing.assert_close(crosscoder.decoder_norms(), expected)
    torch.testing.assert_close(crosscoder.total_decoder_norms(), expected.sum(0))
    with pytest.raises(CrossdiffError, match=r"12 wide, this crosscoder takes 4 \+ 6 = 10"):
        crosscoder.encode(torch.randn(3, 12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": F + 1}, "raise d_sae"),
        ({"k": 0}, "between 0 and"),
        ({"d_ins": [8, 8]}, "sum of d_ins"),
        ({"d_sae": 0}, "at least one latent"),
        ({"apply_b_dec_to_input": True}, "must be False"),
        ({"normalize_activations": "layer_norm"}, "would mix the models"),
        ({"k_initial": 9}, "k_anneal_steps"),
        ({"model_names": ["one"]}, "must name each"),
        ({"use_sparse_activations": True}, "own sparse path"),
    ],
)
def test_bad_configs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossdiffError, match=message):
        BatchTopKCrosscoderConfig(**{"d_in": D, "d_sae": F, "k": 5, **settings})


def test_loading_the_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(CrossdiffError, match="no crosscoder folder"):
        load_crosscoder(tmp_path)
    trained_crosscoder("l1").to_inference().save_as_jumprelu(tmp_path)
    with pytest.raises(CrossdiffError, match="holds a 'jumprelu'"):
        load_crosscoder(tmp_path)
