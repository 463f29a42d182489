"""What every crosscoder's config holds beside SAELens' own fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sae_crossdiff.errors import CrossdiffError

NORM_KINDS = ("sum", "l2")


@dataclass
class CrosscoderFields:
    """Fields shared by training and inference configs (a mix-in for SAELens dataclasses).

    Args:
        d_ins: d_model of each model; `d_in` is their sum. Two equal halves of `d_in` if empty.
        model_names: one name per model, `base` first.
        decoder_norm: the latent's norm n_j. "sum": sum_m ||W_dec[m, j]||_2 (crosscoders);
            "l2": the norm of the concatenation (what SAELens uses for a plain SAE).
        apply_b_dec_to_input: False; a crosscoder subtracts nothing before its encoder.
        d_in: `sum(d_ins)`. 0 leaves it to `CrosscoderTrainingRunner`, which asks the pair.
    """

    apply_b_dec_to_input: bool = False
    d_ins: list[int] = field(default_factory=list)
    model_names: list[str] = field(default_factory=list)
    decoder_norm: Literal["sum", "l2"] = "sum"

    def __post_init__(self) -> None:
        config: Any = self
        super().__post_init__()  # type: ignore[misc]
        self._validate_widths(config.d_in, config.d_sae)
        if self.apply_b_dec_to_input:
            raise CrossdiffError("apply_b_dec_to_input must be False for a crosscoder")
        if config.normalize_activations not in ("none", "expected_average_only_in"):
            raise CrossdiffError(
                f"normalize_activations={config.normalize_activations!r} would mix the models: "
                "use 'none' (the runner scales each model by itself) or 'expected_average_only_in'"
            )
        if self.decoder_norm not in NORM_KINDS:
            raise CrossdiffError(
                f"decoder_norm={self.decoder_norm!r} is not one of {', '.join(NORM_KINDS)}"
            )

    def _validate_widths(self, d_in: int, d_sae: int) -> None:
        if d_sae < 1:
            raise CrossdiffError(f"d_sae={d_sae}: a crosscoder needs at least one latent")
        if not self.d_ins and d_in:
            if d_in % 2:
                raise CrossdiffError(f"d_in={d_in} is odd: pass d_ins, the width of each model")
            self.d_ins = [d_in // 2] * 2
        if sum(self.d_ins) != d_in:
            raise CrossdiffError(
                f"d_in={d_in} is not the sum of d_ins={self.d_ins}: d_in must be sum(d_ins)"
            )
        if not self.model_names:
            two = ["base", "chat"]
            self.model_names = (
                two if len(self.d_ins) in (0, 2) else [f"model_{i}" for i in range(len(self.d_ins))]
            )
        if self.d_ins and len(self.model_names) != len(self.d_ins):
            raise CrossdiffError(
                f"model_names={self.model_names} must name each of the {len(self.d_ins)} models"
            )
