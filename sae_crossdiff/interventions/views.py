"""One model's side of a crosscoder as a SAELens SAE of that model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from torch import Tensor, nn
from typing_extensions import override

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError


@dataclass
class CrosscoderViewConfig(JumpReLUSAEConfig):
    """Config of a `CrosscoderView`: an SAE of width d_m with the crosscoder's latents."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder_view"


class CrosscoderView(JumpReLUSAE):
    """The side of one model: encodes with every model's activations, decodes into one.

        f(x)    = relu(x_m @ W_enc[m] + sum_other x_o @ W_enc[o] + b_enc), kept above the threshold
        x_hat_m = f @ W_dec[:, m] + b_dec[m]

    A real SAE for `add_sae`, `use_error_term`, `run_with_saes`, `run_with_cache_with_saes` and
    hooks on `hook_sae_acts_post`. Its weights are slices that share the crosscoder's memory. The
    other models' part must be given for the same tokens: by `attach`, or with `paired`.

    Raises:
        CrossdiffError: a model that the crosscoder does not know; encoding without `paired`.
    """

    def __init__(self, crosscoder: Crosscoder, model: str, hook_name: str | None = None):
        index = crosscoder.index_of(model)
        metadata = copy.deepcopy(crosscoder.cfg.metadata)
        metadata.hook_name = hook_name or metadata.hook_name
        config = CrosscoderViewConfig(
            d_in=crosscoder.cfg.d_ins[index],
            d_sae=crosscoder.cfg.d_sae,
            dtype=crosscoder.cfg.dtype,
            device="meta",
            apply_b_dec_to_input=False,
            metadata=metadata,
        )
        super().__init__(config)
        self.cfg.device = str(crosscoder.device)
        self.device = crosscoder.device
        self.model, self._others = model, [n for n in crosscoder.cfg.model_names if n != model]
        encoders = dict(zip(crosscoder.cfg.model_names, _encoder_parts(crosscoder), strict=True))
        self.W_enc = _shared(encoders[model])
        self.W_dec = _shared(crosscoder.W_dec_per_model[index])
        self.b_dec = _shared(crosscoder.b_dec_per_model[index])
        self.b_enc, self.threshold = _shared(crosscoder.b_enc), _shared(crosscoder.threshold)
        self._other_encoders = {name: encoders[name].data for name in self._others}
        self._from_others: Tensor | None = None

    @contextmanager
    def paired(self, others: Mapping[str, Float[Tensor, "*tokens d_o"]]) -> Iterator[None]:
        """Inside, `encode` knows the other models' activations at the tokens it will be given.

        Raises:
            CrossdiffError: the activations of one of the other models are missing.
        """
        before = self._from_others
        self.set_pairing(others)
        try:
            yield
        finally:
            self._from_others = before

    def set_pairing(self, others: Mapping[str, Tensor] | None) -> None:
        """As `paired`, until the next call; None forgets."""
        if others is None:
            self._from_others = None
            return
        if missing := [name for name in self._others if name not in others]:
            raise CrossdiffError(f"the code also needs the activations of {missing}: pass them")
        parts = [others[n].to(self.W_enc) @ self._other_encoders[n] for n in self._others]
        self._from_others = torch.stack(parts).sum(0)

    @override
    def encode(self, x: Float[Tensor, "*tokens d_m"]) -> Float[Tensor, "*tokens latents"]:
        """The crosscoder's code of the paired tokens."""
        if self._from_others is None:
            raise CrossdiffError(
                f"this is one side of a crosscoder: its code also needs the activations of "
                f"{self._others} at the same tokens. Use `with attach(crosscoder, model, "
                "paired_with=...) as view`, or `with view.paired({name: activations})`"
            )
        if self._from_others.shape[:-1] != x.shape[:-1]:
            raise CrossdiffError(
                f"paired with activations of {tuple(self._from_others.shape[:-1])} tokens, but "
                f"asked to encode {tuple(x.shape[:-1])}: both models must run on the same tokens"
            )
        sae_in = self.process_sae_in(x)
        pre = self.hook_sae_acts_pre(sae_in @ self.W_enc + self._from_others + self.b_enc)
        return self.hook_sae_acts_post(torch.where(pre > self.threshold, pre.relu(), 0))

    @override
    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        raise CrossdiffError(
            "a view shares its crosscoder's weights: save the crosscoder (crosscoder.save_model)"
        )


def _encoder_parts(crosscoder: Crosscoder) -> list[Tensor]:
    return list(crosscoder.W_enc.split(crosscoder.cfg.d_ins, dim=0))


def _shared(weight: Tensor) -> nn.Parameter:
    """A parameter in the same memory: later changes of the crosscoder show in the view."""
    return nn.Parameter(weight.data, requires_grad=False)
