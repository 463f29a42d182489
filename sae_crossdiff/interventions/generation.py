"""Greedy generation with edits, for one model alone or for a pair stepping together.

With a KV cache each model sees every token once. The edited model reads its own cache, whose upper
layers hold what the edits made of earlier tokens, exactly as without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache

from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.edits import Edit, apply_edits
from sae_crossdiff.interventions.hooks import site_of
from sae_crossdiff.interventions.positions import TokenRoles, padded
from sae_crossdiff.interventions.prompts import turn_end_ids
from sae_crossdiff.interventions.site import Exclusions, Site
from sae_crossdiff.pair import (
    HookedModelPair,
    find_hook_point,
    hooked_at,
    read_activations,
    unembedding_at,
)


def generate(
    model: HookedModelPair | Any,
    prompts: Sequence[TokenSequence],
    edits: Sequence[Edit] = (),
    crosscoder: Crosscoder | None = None,
    *,
    target: str = "chat",
    max_new_tokens: int = 64,
    stop_ids: Sequence[int] | None = None,
    exclusions: Exclusions | None = None,
    use_cache: bool = True,
    batch_size: int = 16,
) -> list[list[int]]:
    """The greedy continuation of each prompt under `edits`: token ids, the stopping one included.

    Args:
        model: a pair, or one model alone for edits that need no other (`Steer`, `ProjectOut`,
            `Replace`). On a pair, the other models run only if an edit needs them.
        prompts: see `chat_prompt` and `plain_prompt`.
        edits: act on prompt and generated tokens alike; choose with `at`. Generated tokens count
            as assistant tokens, those in `stop_ids` as template.
        target: the model that generates and is edited.
        stop_ids: end an answer; end-of-sequence and end-of-turn tokens if None.
        use_cache: False runs every step from the start, for models without Hugging Face caches.

    Raises:
        CrossdiffError: edits without a crosscoder, or which need a model that is not there; a KV
            cache asked of a model that has none.
    """
    if not prompts:
        return []
    if edits and crosscoder is None:
        raise CrossdiffError("edits need the crosscoder whose latents they name: pass it")
    models = dict(model.models.items()) if isinstance(model, HookedModelPair) else {target: model}
    if target not in models:
        raise CrossdiffError(f"no model {target!r} here, only {list(models)}")
    if not any(edit.needs_pair for edit in edits):
        models = {target: models[target]}
    if use_cache and (bad := [n for n, m in models.items() if not hasattr(m, "original_model")]):
        raise CrossdiffError(f"{bad} cannot take Hugging Face's KV cache: pass use_cache=False")
    stops = turn_end_ids(models[target].tokenizer) if stop_ids is None else list(stop_ids)
    site = _hooks_of(model, crosscoder, models)
    answers: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        stepper = _Stepper(models, site, crosscoder, edits, target, exclusions, use_cache)
        answers += _continue(stepper, prompts[start : start + batch_size], max_new_tokens, stops)
    return answers


def _hooks_of(
    model: Any, crosscoder: Crosscoder | None, models: dict[str, Any]
) -> dict[str, str] | None:
    if crosscoder is None:
        return None
    if isinstance(model, HookedModelPair):
        return {name: model.hook_names[name] for name in models}
    return {name: site_of(crosscoder) for name in models}


class _Stepper:
    """Runs the models on the newest tokens (or on all, without a cache); keeps their caches."""

    def __init__(
        self,
        models: dict[str, Any],
        hook_names: dict[str, str] | None,
        crosscoder: Crosscoder | None,
        edits: Sequence[Edit],
        target: str,
        exclusions: Exclusions | None,
        use_cache: bool,
    ):
        self.models, self.hook_names, self.crosscoder = models, hook_names, crosscoder
        self.edits, self.target, self.exclusions = edits, target, exclusions
        # Without a config: a cache that knows the sliding windows would take its lengths from
        # layers that the other models, which stop at the site, never reach.
        self.caches = {name: DynamicCache() for name in models} if use_cache else {}
        self.done = 0

    @torch.no_grad()
    def __call__(self, tokens: Int[Tensor, "batch pos"], roles: TokenRoles) -> Tensor:
        """Logits [batch, vocabulary] that follow the last of `tokens`, all tokens so far."""
        new = slice(self.done if self.caches else 0, tokens.shape[1])
        others = {
            name: read_activations(
                self.models[name], self._hook(name), tokens[:, new], **self._arguments(name, roles)
            )
            for name in self.models
            if name != self.target
        }
        model = self.models[self.target]
        last = torch.zeros_like(tokens[:, new], dtype=torch.bool)
        last[:, -1] = True

        def edit(own: Tensor) -> Tensor:
            assert self.crosscoder is not None
            acts = {**others, self.target: own}
            site = Site(self.crosscoder, acts, roles.at(new), self.target, self.exclusions)
            return apply_edits(self.edits, site).reshape(own.shape).to(own)

        with ExitStack() as stack:
            stack.enter_context(unembedding_at(model, last))
            if self.edits:
                point = find_hook_point(model, self._hook(self.target), self.target)
                stack.enter_context(hooked_at(point, edit))
            logits = model(tokens[:, new], **self._arguments(self.target, roles))
        self.done = tokens.shape[1]
        return logits[0]

    def _hook(self, name: str) -> str:
        assert self.hook_names is not None
        return self.hook_names[name]

    def _arguments(self, name: str, roles: TokenRoles) -> dict[str, Any]:
        device = next(self.models[name].parameters()).device
        arguments: dict[str, Any] = {}
        if not bool(roles.real.all()):
            arguments["attention_mask"] = roles.real.long().to(device)
        if self.caches:
            arguments |= {"past_key_values": self.caches[name], "use_cache": True}
        return arguments


def _continue(
    stepper: _Stepper, prompts: Sequence[TokenSequence], max_new_tokens: int, stops: list[int]
) -> list[list[int]]:
    device = next(stepper.models[stepper.target].parameters()).device
    tokens = padded([p.ids for p in prompts], left=True).to(device)
    roles = _prompt_roles(prompts).to(device)
    length = tokens.shape[1]
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    stop = torch.tensor(stops, dtype=torch.long, device=device)
    for _ in range(max_new_tokens):
        chosen = stepper(tokens, roles).argmax(dim=-1)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        ends = torch.isin(chosen, stop)
        roles = _extended(roles, ends)
        finished |= ends
        if bool(finished.all()):
            break
    return [_until(row, stops) for row in tokens[:, length:].tolist()]


def _prompt_roles(prompts: Sequence[TokenSequence]) -> TokenRoles:
    """Everything given is prompt; its last token predicts the answer's next token."""
    roles = TokenRoles.of(prompts, pad_left=True)
    index = roles.turn_index.clone()
    before = index[:, -2] if index.shape[1] > 1 else torch.full_like(index[:, -1], -1)
    index[:, -1] = torch.where(roles.assistant[:, -1], before + 1, 0)
    return TokenRoles(
        roles.real, roles.special, roles.template, roles.assistant, roles.real.clone(), index
    )


def _extended(roles: TokenRoles, ends: Bool[Tensor, " batch"]) -> TokenRoles:
    """Roles with one generated token more per row."""
    yes = torch.ones_like(ends)
    columns = {
        "real": yes,
        "special": ~yes,
        "template": ends,
        "assistant": ~ends,
        "prompt": ~yes,
        "turn_index": roles.turn_index[:, -1] + 1,
    }
    old = vars(roles)
    return TokenRoles(**{n: torch.cat([old[n], c[:, None]], dim=1) for n, c in columns.items()})


def _until(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Up to and with the first stop token."""
    ends = [i for i, token in enumerate(ids) if token in stops]
    return ids[: ends[0] + 1] if ends else ids
