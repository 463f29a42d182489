"""The inference crosscoder: one code, one decoder per model, a threshold per latent."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAE
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from sae_crossdiff.crosscoders.codes import SparseCode
from sae_crossdiff.crosscoders.config import CrosscoderFields
from sae_crossdiff.crosscoders.mixin import CrosscoderMixin
from sae_crossdiff.crosscoders.sparse_encoder import SparseEncoder
from sae_crossdiff.errors import CrossdiffError


@dataclass
class CrosscoderConfig(CrosscoderFields, JumpReLUSAEConfig):
    """Config of `Crosscoder`; see `CrosscoderFields` for what it adds to SAELens."""

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"


class Crosscoder(CrosscoderMixin, JumpReLUSAE):
    """A trained crosscoder (arXiv:2504.02922) as a SAELens SAE on the joined hook.

        f(x)    = relu(x @ W_enc + b_enc), kept where f_j > threshold_j        [B, F]
        x_hat_m = f @ W_dec[:, m] + b_dec[m]                                   [B, d_m]

    Thresholds are in units of f, one per latent: a BatchTopK threshold theta on f * n becomes
    theta / n_j, which per-model folding leaves exactly as it is. An L1 crosscoder has zeros.
    Load with `SAE.load_from_disk(folder)` once `sae_crossdiff` is imported.
    """

    cfg: CrosscoderConfig  # type: ignore[assignment]

    def __init__(self, cfg: CrosscoderConfig, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        self.sparse_encoder = SparseEncoder()

    def encode_sparse(self, x: Float[Tensor, "tokens d_in"]) -> SparseCode:
        """The code as triples; the dense one is made only if a hook wants to see it.

        Fastest in training units (`in_training_units`), whose encoder weights lie latent by
        latent. Carries no gradient.
        """
        hooks = (self.hook_sae_input, self.hook_sae_acts_pre, self.hook_sae_acts_post)
        if any(hook.has_hooks() for hook in hooks):
            return SparseCode.from_dense(self.encode(x))
        limits = self.threshold.detach().clamp(min=0)
        entries = self.sparse_encoder.entries_above(
            self.process_sae_in(x), self.W_enc.detach(), self.b_enc.detach(), limits
        )
        return SparseCode.from_latent_order(*entries, len(x), self.cfg.d_sae)

    def encode_latents(
        self, x: Float[Tensor, "tokens d_in"], latents: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "tokens chosen"]:
        """`encode(x)[:, latents]`, computing only those columns (and calling no hook)."""
        self.split(x)
        pre = torch.addmm(self.b_enc[latents], x.to(self.dtype), self.W_enc[:, latents])
        return torch.where(pre > self.threshold[latents], pre.relu(), 0)

    def decode_sparse(self, code: SparseCode) -> Float[Tensor, "tokens d_in"]:
        """Reconstruction from triples; equals `decode(code.to_dense())`."""
        return code.matmul(self.W_dec) + self.b_dec

    @torch.no_grad()
    def fold_normalization(self, mean: Float[Tensor, " d_in"], scale: Sequence[float]) -> None:
        """Make weights trained on `(x_m - mean_m) * scale_m` work on raw x, in place.

        The code stays the same for the same token, so thresholds do too; reconstructions come
        back in raw units. The normalisation is remembered (`activation_mean`, `activation_scale`).

        Raises:
            CrossdiffError: a normalisation was folded before, or a scale is not positive.
        """
        if bool((self.activation_mean != 0).any()) or bool((self.activation_scale != 1).any()):
            raise CrossdiffError("a normalisation is folded in already: fold into a fresh copy")
        if len(scale) != self.n_models or min(scale) <= 0:
            raise CrossdiffError(f"scale={list(scale)} must be one positive factor per model")
        self.activation_mean.copy_(mean)
        self.activation_scale.copy_(torch.tensor(list(scale)))
        # In float64: with Gemma's mean (98 % of the norm) the bias is a difference of large sums.
        factor, mean64 = self.per_dimension_scale().double(), mean.double().to(self.W_enc.device)
        W_enc = self.W_enc.double() * factor[:, None]
        self.b_enc.copy_(self.b_enc.double() - mean64 @ W_enc)
        self.W_enc.copy_(W_enc)
        self.W_dec.copy_(self.W_dec.double() / factor)
        self.b_dec.copy_(self.b_dec.double() / factor + mean64)

    @torch.no_grad()
    def in_training_units(self) -> Crosscoder:
        """A copy that takes `self.normalize(x)`: decoder norms and betas compare across models."""
        unfolded = copy.deepcopy(self)
        factor, mean = self.per_dimension_scale().double(), self.activation_mean.double()
        unfolded.b_enc.copy_(self.b_enc.double() + mean @ self.W_enc.double())
        rows = (self.W_enc.T.double() / factor).to(self.W_enc.dtype).contiguous()
        unfolded.W_enc.data = rows.T  # latent by latent, for `encode_sparse`
        unfolded.W_dec.copy_(self.W_dec.double() * factor)
        unfolded.b_dec.copy_((self.b_dec.double() - mean) * factor)
        unfolded.activation_mean.zero_()
        unfolded.activation_scale.fill_(1.0)
        return unfolded

    def save_as_jumprelu(self, folder: str | Path) -> Path:
        """Write a plain SAELens `jumprelu` SAE: loads and runs without this package, bit-equal."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        state = {name: getattr(self, name).detach().contiguous() for name in names}
        save_file(state, folder / SAE_WEIGHTS_FILENAME)
        config = self.cfg.to_dict()
        for extra in ("d_ins", "model_names", "decoder_norm"):
            config["metadata"][f"crosscoder_{extra}"] = config.pop(extra)
        config["architecture"] = JumpReLUSAEConfig.architecture()
        (folder / SAE_CFG_FILENAME).write_text(json.dumps(config))
        return folder


def load_crosscoder(folder: str | Path, device: str = "cpu") -> Crosscoder:
    """`SAE.load_from_disk` with errors that say what is wrong with the folder.

    Raises:
        CrossdiffError: not a SAELens folder, or not one of a crosscoder.
    """
    folder = Path(folder)
    missing = [n for n in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME) if not (folder / n).exists()]
    if missing:
        raise CrossdiffError(
            f"{folder} is no crosscoder folder: {' and '.join(missing)} missing. Pass the folder "
            "that `crossdiff train` printed"
        )
    architecture = json.loads((folder / SAE_CFG_FILENAME).read_text()).get("architecture")
    if architecture != CrosscoderConfig.architecture():
        raise CrossdiffError(
            f"{folder} holds a {architecture!r}, not a 'crosscoder': pass the exported crosscoder "
            "(a training checkpoint is exported with `to_inference()`)"
        )
    return SAE.load_from_disk(folder, device=device)  # type: ignore[return-value]
