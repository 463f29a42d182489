"""A pair of models is one hooked model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens.analysis.hooked_sae_transformer import HookedSAETransformer
from sae_lens.util import extract_layer_from_tlens_hook_name
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint
from typing_extensions import override

from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair.loading import load_model
from sae_crossdiff.pair.sites import find_hook_point, hooked_at, read_site, read_width
from sae_crossdiff.pair.tokenizers import check_tokenizers_agree

ONE_SIDED = {"past_kv_cache", "past_key_values", "use_past_kv_cache", "start_at_layer"}


class HookedModelPair(HookedRootModule):
    """Two (or more) models whose residual streams meet in one hook point.

    The hook point `hook_name` carries `cat([x_base, x_chat], dim=-1)`, [batch, pos, sum(d_ins)].
    A crosscoder is then an ordinary SAE on that hook, and SAELens' ActivationsStore, runner,
    evals, `add_sae`, `run_with_saes`, `run_with_hooks_with_saes` work on the pair unmodified.

    A forward pass runs every model but the output model (the last, `chat`, unless told otherwise)
    up to the site, then the output model, whose own activations at the site are replaced by its
    part of what left the hook point. Logits and losses are those of the output model.

    Args:
        models: name -> model with TransformerLens hooks (TransformerBridge, HookedTransformer,
            ...), `base` first.
        hook_name: the site, e.g. `blocks.13.hook_resid_post`. A mapping name -> hook gives
            each model its own site; the pair's hook point then bears the output model's name.
        output_model: name of the model whose upper layers run; the last one by default.

    Raises:
        CrossdiffError: fewer than two models, tokenizers that disagree, a hook that is missing
            or never fires.
    """

    models: Any  # an nn.ModuleDict of models with TransformerLens hooks

    # SAELens' attach methods only need hook_dict, setup and forward; the pair has all three.
    add_sae = HookedSAETransformer.add_sae
    _reset_sae = HookedSAETransformer._reset_sae
    reset_saes = HookedSAETransformer.reset_saes
    saes = HookedSAETransformer.saes
    acts_to_saes = HookedSAETransformer.acts_to_saes
    run_with_saes = HookedSAETransformer.run_with_saes
    run_with_cache_with_saes = HookedSAETransformer.run_with_cache_with_saes
    run_with_hooks_with_saes = HookedSAETransformer.run_with_hooks_with_saes
    _compute_exclusion_mask = HookedSAETransformer._compute_exclusion_mask
    _token_masks: Any = HookedSAETransformer._token_masks

    def __init__(
        self,
        models: Mapping[str, Any],
        hook_name: str | Mapping[str, str],
        output_model: str | None = None,
    ):
        super().__init__()
        if len(models) < 2:
            raise CrossdiffError(f"a pair needs at least two models, got {list(models)}")
        self.names = tuple(models)
        self.output_model = output_model or self.names[-1]
        if self.output_model not in models:
            raise CrossdiffError(f"output_model {output_model!r} is not one of {list(models)}")
        self.models = nn.ModuleDict(models)
        self.hook_names = {
            name: hook_name if isinstance(hook_name, str) else hook_name[name]
            for name in self.names
        }
        self.hook_name = self.hook_names[self.output_model]
        self._acts_to_saes: dict[str, Any] = {}
        self._transcoder_output_hooks: dict[str, str] = {}
        tokenizers = {n: t for n, m in models.items() if (t := getattr(m, "tokenizer", None))}
        if len(tokenizers) > 1:
            check_tokenizers_agree(tokenizers)
        self.d_ins = [read_width(models[name], self._point(name)) for name in self.names]
        _plant_hook_point(self, self.hook_name)
        self.setup()

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | Any,
        chat: str | Path | Any,
        *,
        hook_name: str | Mapping[str, str],
        dtype: torch.dtype | str = torch.float32,
        device: str = "cpu",
    ) -> HookedModelPair:
        """The pair `base`, `chat` from hub ids or local folders (or models already loaded).

        >>> HookedModelPair.from_pretrained(
        ...     "google/gemma-2-2b", "google/gemma-2-2b-it",
        ...     hook_name="blocks.13.hook_resid_post", dtype="bfloat16", device="cuda",
        ... )  # doctest: +SKIP
        """
        models = {
            name: load_model(model, dtype, device) if isinstance(model, str | Path) else model
            for name, model in (("base", base), ("chat", chat))
        }
        return cls(models, hook_name)

    @override
    def setup(self) -> None:
        """Register the pair's own hook points only: the models keep their hooks and names."""
        self.mod_dict, self.hook_dict = {}, {}
        for name, module in self.named_modules():
            if name and not name.startswith("models"):
                module.name = name  # type: ignore[assignment]
                self.mod_dict[name] = module
                if isinstance(module, HookPoint):
                    self.hook_dict[name] = module

    @property
    def tokenizer(self) -> Any:
        """The output model's tokenizer (it has the chat template); ids agree across models."""
        return self.models[self.output_model].tokenizer

    @property
    def cfg(self) -> Any:
        """The output model's config."""
        return self.models[self.output_model].cfg

    @property
    def W_E(self) -> Tensor:
        """The output model's embedding; SAELens sends tokens to its device."""
        return self.models[self.output_model].W_E

    @property
    def device(self) -> torch.device:
        return next(self.models[self.output_model].parameters()).device

    @property
    def layer(self) -> int | None:
        """Block of the site, or None for a hook outside the blocks."""
        return extract_layer_from_tlens_hook_name(self.hook_name)

    def to_tokens(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the output model's `to_tokens`."""
        return self.models[self.output_model].to_tokens(*args, **kwargs)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """[..., d_m] per model -> [..., sum(d_ins)], in the order of `names`."""
        device = parts[-1].device
        return torch.cat([part.to(device) for part in parts], dim=-1)

    def split(self, joined: Tensor) -> dict[str, Tensor]:
        """[..., sum(d_ins)] -> {name: [..., d_m]}."""
        return dict(zip(self.names, joined.split(self.d_ins, dim=-1), strict=True))

    @torch.no_grad()
    def activations(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Joined residual streams [batch, pos, sum(d_ins)] of `tokens` [batch, pos].

        Each model stops right after its site; no hook of the pair is called.
        """
        return self.join([self._read(name, tokens, attention_mask) for name in self.names])

    @override
    def forward(
        self,
        input: str | list[str] | Tensor,
        return_type: str | None = "logits",
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits or loss of the output model; or, with `stop_at_layer`, the joined activations.

        Raises:
            CrossdiffError: `stop_at_layer` would stop before the site, or an argument that would
                change the input of the output model only (a cache, another starting layer).
        """
        if one_sided := sorted(ONE_SIDED & kwargs.keys()):
            raise CrossdiffError(f"a pair cannot take {one_sided}: run its models one by one")
        tokens = (
            input if isinstance(input, Tensor) else self.to_tokens(input, prepend_bos=prepend_bos)
        )
        if stop_at_layer is not None:
            if self.layer is not None and 0 <= stop_at_layer <= self.layer:
                raise CrossdiffError(
                    f"stop_at_layer={stop_at_layer} stops before the site {self.hook_name}; "
                    f"use at least {self.layer + 1}"
                )
            with self._token_masks(tokens, {}):
                return self._own_point(self.activations(tokens, attention_mask))
        mask = attention_mask
        others = {n: self._read(n, tokens, mask) for n in self.names if n != self.output_model}
        if mask is not None:
            kwargs["attention_mask"] = mask

        def replace(own: Tensor) -> Tensor:
            joined = self.join([own if n == self.output_model else others[n] for n in self.names])
            return self.split(self._own_point(joined))[self.output_model].to(own)

        with self._token_masks(tokens, {}), hooked_at(self._point(self.output_model), replace):
            return self.models[self.output_model](tokens, return_type=return_type, **kwargs)

    @override
    def run_with_cache(  # type: ignore[override]
        self,
        *args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        **kw: Any,
    ) -> tuple[Any, ActivationCache | dict[str, Tensor]]:
        """As in HookedTransformer: (output, cache) with the pair's hook points only."""
        output, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kw)
        if return_cache_object:
            cache = ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)
        return output, cache

    def _point(self, name: str) -> nn.Module:
        return find_hook_point(self.models[name], self.hook_names[name], name)

    def _own_point(self, joined: Tensor) -> Tensor:
        """Pass the pair's hook point, or the SAE that SAELens put in its place."""
        module: Any = self
        for part in self.hook_name.split("."):
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        return module(joined)

    def _read(self, name: str, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        model = self.models[name]
        device = next(model.parameters()).device
        masked = {} if attention_mask is None else {"attention_mask": attention_mask.to(device)}
        return read_site(model, self._point(name), tokens.to(device), **masked)


def _plant_hook_point(root: nn.Module, hook_name: str) -> None:
    """Create the modules along `hook_name`; SAELens indexes digits by int, so ModuleLists."""
    *path, leaf = hook_name.split(".")
    here: Any = root
    for part, following in zip(path, [*path[1:], leaf], strict=True):
        if part.isdigit():
            here.extend(nn.Module() for _ in range(int(part) + 1 - len(here)))
            here = here[int(part)]
        else:
            setattr(here, part, nn.ModuleList() if following.isdigit() else nn.Module())
            here = getattr(here, part)
    setattr(here, leaf, HookPoint())
