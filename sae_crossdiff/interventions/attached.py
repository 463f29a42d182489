"""A crosscoder on one model, with the other model run on the same tokens by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.hooks import site_of
from sae_crossdiff.interventions.views import CrosscoderView
from sae_crossdiff.pair import hook_point_name, read_activations

_INCREMENTAL = ("past_key_values", "past_kv_cache", "use_past_kv_cache", "use_cache")


@contextmanager
def attach(
    crosscoder: Crosscoder,
    model: Any,
    *,
    paired_with: Any,
    side: str = "chat",
) -> Iterator[CrosscoderView]:
    """A view of `crosscoder` for `model`, ready for SAELens' methods of that model.

    >>> with attach(crosscoder, chat, paired_with=base) as view:  # doctest: +SKIP
    ...     logits, cache = chat.run_with_cache_with_saes(tokens, saes=[view])

    Inside, each forward of `model` first runs the other model(s) on the same tokens, up to the
    site. Outside, the view is unpaired and raises.

    Args:
        model: what can hold SAEs: SAETransformerBridge or HookedSAETransformer.
        paired_with: the other model, or name -> model where the crosscoder has more than two.
        side: which of the crosscoder's models `model` is.

    Raises:
        CrossdiffError: a model without `add_sae`, another model too many or too few, a hook that
            a model lacks; on a forward with a KV cache, which would show the other model only the
            last token.
    """
    if not hasattr(model, "add_sae"):
        raise CrossdiffError(
            f"{type(model).__name__} cannot hold SAEs: load it with "
            "SAETransformerBridge.boot_transformers, or use HookedModelPair.run_with_saes"
        )
    hook_name = site_of(crosscoder)
    view = CrosscoderView(crosscoder, side, hook_point_name(model, hook_name, side))
    names = [name for name in crosscoder.cfg.model_names if name != side]
    others = paired_with if isinstance(paired_with, Mapping) else {names[0]: paired_with}
    if sorted(others) != sorted(names):
        raise CrossdiffError(f"{side!r} must be paired with {names}, got {list(others)}")
    forward = model.forward

    def paired_forward(input: Any, *args: Any, **kwargs: Any) -> Any:
        if cached := [name for name in _INCREMENTAL if kwargs.get(name)]:
            raise CrossdiffError(
                f"{cached} feeds one token at a time, but the other model needs all of them: use "
                "sae_crossdiff.generate on a HookedModelPair, or generate without a cache"
            )
        tokens, kwargs = _tokens(model, input, kwargs)
        mask = {k: v for k, v in kwargs.items() if k == "attention_mask" and v is not None}
        acts = {
            n: read_activations(other, hook_name, tokens, **mask) for n, other in others.items()
        }
        with view.paired(acts):
            return forward(tokens, *args, **kwargs)

    model.__dict__["forward"] = paired_forward
    try:
        yield view
    finally:
        del model.__dict__["forward"]


def _tokens(model: Any, input: Any, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Token ids of `input`, tokenised here so that every model gets the same."""
    if isinstance(input, Tensor):
        return input, kwargs
    kwargs = dict(kwargs)
    options = {k: kwargs.pop(k) for k in ("prepend_bos", "padding_side") if k in kwargs}
    if isinstance(input, list) and len(input) > 1:
        raise CrossdiffError("pass several texts as tokens: model.to_tokens(texts), and a mask")
    return model.to_tokens(input, **options), kwargs
