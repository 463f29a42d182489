"""What an edit sees at the site: true activations, their code, and what each token is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_crossdiff.activations import OutlierPolicy
from sae_crossdiff.crosscoders import Crosscoder, SparseCode
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.positions import TokenRoles

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Exclusions:
    """Tokens that no edit touches, because the crosscoder was not trained on their like.

    Their activations stay the edited model's own. BOS and padding are always among them;
    `max_norms` (model name -> largest norm) adds attention sinks.
    """

    max_norms: Mapping[str, float] | None = None

    @classmethod
    def of_run(cls, run: str | Path, policy: OutlierPolicy, names: list[str]) -> Exclusions:
        """The norms beyond which a run left tokens out of training (its outliers.json).

        Raises:
            CrossdiffError: the run has no outliers.json although its policy needs one.
        """
        if policy.max_norm_ratio is None:
            return cls()
        path = Path(run) / "outliers.json"
        if not path.exists():
            raise CrossdiffError(
                f"{path} is missing, so the tokens that the crosscoder never saw are unknown: "
                "pass a whole run folder, or Exclusions(max_norms=...)"
            )
        medians = json.loads(path.read_text())["median_norms"]
        ratio = policy.max_norm_ratio
        return cls({n: ratio * median for n, median in zip(names, medians, strict=True)})


class Site:
    """The activations of one batch at the site, flattened to tokens = batch * pos rows.

    Args:
        crosscoder: takes the raw joined activations of its models.
        acts: model name -> true activations [batch, pos, d_m]; the target's at least.
        roles: what each token is.
        target: the model whose activations are edited.
        exclusions: tokens that edits leave alone.
    """

    def __init__(
        self,
        crosscoder: Crosscoder,
        acts: Mapping[str, Float[Tensor, "batch pos d_m"]],
        roles: TokenRoles,
        target: str = "chat",
        exclusions: Exclusions | None = None,
    ):
        self.crosscoder, self.roles, self.target = crosscoder, roles, target
        self.target_index = crosscoder.index_of(target)
        shape = acts[target].shape[:2]
        if roles.shape != shape:
            raise CrossdiffError(
                f"the edits were made for {tuple(roles.shape)} tokens [batch, pos], the model ran "
                f"on {tuple(shape)}: make the hooks for these tokens; to generate with a KV cache "
                "use sae_crossdiff.generate"
            )
        kind = {"device": crosscoder.W_dec.device, "dtype": crosscoder.dtype}
        self.acts = {name: x.flatten(0, 1).to(**kind) for name, x in acts.items()}
        self.editable = self._editable(exclusions or Exclusions())

    def _editable(self, exclusions: Exclusions) -> Bool[Tensor, " tokens"]:
        device = self.crosscoder.W_dec.device
        editable = (self.roles.real & ~self.roles.special).flatten().to(device)
        for name, limit in (exclusions.max_norms or {}).items():
            if name in self.acts:
                editable &= self.acts[name].norm(dim=-1) <= limit
        return editable

    @cached_property
    def code(self) -> SparseCode:
        """f of every editable token, from all models' true activations (nothing elsewhere).

        Raises:
            CrossdiffError: only some of the crosscoder's models ran.
        """
        names = self.crosscoder.cfg.model_names
        if missing := [name for name in names if name not in self.acts]:
            raise CrossdiffError(
                f"this edit needs the code f, and f needs the activations of {missing} on the same "
                f"tokens: run it on a HookedModelPair instead of on {self.target!r} alone"
            )
        joined = torch.cat([self.acts[name] for name in names], dim=-1)
        rows = self.editable.nonzero().squeeze(-1)
        parts = [self._encoded(joined, some) for some in rows.split(_ROWS_AT_ONCE)]
        rows, latents, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return SparseCode(rows, latents, values, len(joined), self.crosscoder.cfg.d_sae)

    def _encoded(self, joined: Tensor, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = self.crosscoder.encode_sparse(joined[some])
        return some[code.rows], code.latents, code.values

    def decoder(self, model: str | None = None) -> Float[Tensor, "latents d_m"]:
        """W_dec of a model (the target's if None), in raw units."""
        index = self.target_index if model is None else self.crosscoder.index_of(model)
        return self.crosscoder.W_dec_per_model[index]

    def bias(self, model: str | None = None) -> Float[Tensor, " d_m"]:
        index = self.target_index if model is None else self.crosscoder.index_of(model)
        return self.crosscoder.b_dec_per_model[index]

    def written(
        self, weight: Float[Tensor, "latents d"], latents: Bool[Tensor, " latents"] | None = None
    ) -> Float[Tensor, "tokens d"]:
        """sum_j f_j weight_j over all latents, or over the chosen ones."""
        code = self.code
        if latents is not None:
            code = code.with_values(code.values * latents[code.latents])
        return code.matmul(weight)

    def reconstruction(self, model: str | None = None) -> Float[Tensor, "tokens d_m"]:
        """x_hat_m = sum_j f_j d_j^m + b^m."""
        return self.written(self.decoder(model)) + self.bias(model)
