"""What the training crosscoders share: initialisation, export, per-model metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import Tensor

from sae_crossdiff.crosscoders.codes import SparseCode
from sae_crossdiff.crosscoders.crosscoder import Crosscoder, CrosscoderConfig
from sae_crossdiff.crosscoders.mixin import CrosscoderMixin
from sae_crossdiff.crosscoders.sparse_ops import (
    GradientBuffers,
    decode_entries,
    encode_entries,
)
from sae_crossdiff.errors import CrossdiffError


class TrainingCrosscoderMixin(CrosscoderMixin):
    """Goes first among the base classes of a training crosscoder.

    `gradient_buffers` is set by a trainer that drops all gradients before each backward pass;
    without it every pass allocates its own.
    """

    gradient_buffers: GradientBuffers | None = None

    def initialize_weights(self) -> None:
        """One random matrix for all models, decoder rows at `decoder_init_norm` per model,
        encoder = transpose of the decoder, biases zero (METHOD: `same_init`).

        Models of different widths cannot share a matrix and get one each.

        Raises:
            CrossdiffError: weights of a narrower type than float32.
        """
        if self.dtype not in (torch.float32, torch.float64):
            raise CrossdiffError(
                f"dtype={self.cfg.dtype}: weights in training must be float32 or float64, or small "
                "updates are rounded away; bfloat16 is used where it loses nothing"
            )
        super().initialize_weights()
        with torch.no_grad():
            parts = list(self.W_dec.split(self.cfg.d_ins, dim=-1))
            if len(set(self.cfg.d_ins)) == 1:
                parts = [parts[0]] * len(parts)
            if self.cfg.decoder_init_norm is not None:
                norm = self.cfg.decoder_init_norm
                parts = [part / part.norm(dim=-1, keepdim=True) * norm for part in parts]
            self.W_dec.data = torch.cat(parts, dim=-1)
            # One latent's encoder weights lie next to each other in memory: gradients and
            # float32 values of chosen entries then read whole rows. The shape stays [d_in, F].
            self.W_enc.data = self.W_dec.data.clone().T

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        output = super().training_forward_pass(step_input)  # type: ignore[misc]
        return self.with_model_metrics(output)

    def reconstruct_sparse(
        self, x: Float[Tensor, "tokens d_in"], chosen: SparseCode
    ) -> tuple[SparseCode, Float[Tensor, "tokens d_in"]]:
        """The chosen entries with values that carry a gradient, and what they decode to."""
        buffers = self.gradient_buffers
        code = encode_entries(x, self.W_enc, self.b_enc, chosen, buffers)
        return code, decode_entries(code, self.W_dec, buffers) + self.b_dec

    def with_model_metrics(self, output: TrainStepOutput) -> TrainStepOutput:
        """Adds explained variance per model; SAELens evaluates callables on logging steps only."""
        for index, name in enumerate(self.cfg.model_names):
            output.metrics[f"explained_variance_{name}"] = self._explained_variance(output, index)
        return output

    def _explained_variance(self, output: TrainStepOutput, index: int) -> Callable[[], float]:
        def compute() -> float:
            x = self.split(output.sae_in.float())[index]
            error = self.split(output.sae_out.float())[index] - x
            return 1 - (error.pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()

        return compute

    @torch.no_grad()
    def to_inference(self) -> Crosscoder:
        """The inference crosscoder with copies of the current weights.

        Raises:
            CrossdiffError: a BatchTopK crosscoder whose threshold was never set.
        """
        this: Any = self
        state: dict[str, Tensor] = {
            name: t.detach().clone() for name, t in self.state_dict().items()
        }
        this.process_state_dict_for_saving_inference(state)
        config = CrosscoderConfig.from_dict(this.cfg.get_inference_sae_cfg_dict())
        crosscoder = Crosscoder(config)
        crosscoder.load_state_dict(state)
        return crosscoder

    def process_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> None:
        super().process_state_dict_for_saving(state_dict)  # type: ignore[misc]
        state_dict["W_enc"] = state_dict["W_enc"].contiguous()  # safetensors holds no strides

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Tensor]) -> None:
        """Nothing to rescale: the code is unscaled. Subclasses set their threshold."""
        self.process_state_dict_for_saving(state_dict)
        state_dict.setdefault("threshold", torch.zeros_like(self.b_enc))


@torch.no_grad()
def geometric_median(
    points: Float[Tensor, "n d"], steps: int = 50, tolerance: float = 1e-6
) -> Float[Tensor, " d"]:
    """The point with the least summed distance to `points` (Weiszfeld's iteration)."""
    median = points.mean(dim=0)
    for _ in range(steps):
        weights = 1 / (points - median).norm(dim=-1).clamp(min=1e-8)
        new = (weights[:, None] * points).sum(dim=0) / weights.sum()
        if (new - median).norm() <= tolerance * median.norm().clamp(min=1e-8):
            return new
        median = new
    return median
