"""One engine for every causal score: KL and cross-entropy of edited residual streams.

Per batch each model runs once, up to the site; then, for every condition, only the target's layers
above the site, with an unembedding of the scored positions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div

from sae_crossdiff.activations import TokenSequence, check_finite
from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.interventions.edits import Edit, apply_edits
from sae_crossdiff.interventions.positions import TokenRoles, padded
from sae_crossdiff.interventions.site import Exclusions, Site
from sae_crossdiff.pair import HookedModelPair, UpperLayers

Groups = Mapping[str, Callable[[TokenRoles], Tensor]]
_POSITIONS_AT_ONCE = 64


class ScoringBatch(NamedTuple):
    """Right-padded sequences, their roles, and where something is scored [batch, pos]."""

    tokens: Int[Tensor, "batch pos"]
    roles: TokenRoles
    documents: Int[Tensor, " batch"]
    scored: Tensor


@torch.no_grad()
def score(
    pair: HookedModelPair,
    crosscoder: Crosscoder,
    sequences: Iterable[TokenSequence],
    conditions: Mapping[str, Sequence[Edit]],
    groups: Groups,
    target: str = "chat",
    exclusions: Exclusions | None = None,
    batch_size: int = 16,
    max_scored: int = 512,
) -> pd.DataFrame:
    """KL(p_target || p_condition) and cross-entropy, in nats, averaged per document.

    Args:
        conditions: name -> edits of the target's residual stream at the site.
        groups: name -> choice of predicting positions; a position predicts the token after it.
        target: the model whose residual stream is edited and whose upper layers run.
        exclusions: tokens that no edit touches.
        batch_size: sequences per forward, at most.
        max_scored: scored positions per forward (a single longer sequence is allowed); each takes
            about ten bytes per vocabulary entry.

    Returns:
        One row per document, condition and group: `kl`, `ce` (of the condition), `clean_ce` (of
        the unedited target), means over `positions` predictions. Everything in float32.

    Raises:
        CrossdiffError: no condition, no scored position, NaN activations, a site that is no
            residual stream.
    """
    if not conditions:
        raise CrossdiffError("no conditions to score: name at least one")
    upper = UpperLayers(pair.models[target], pair.hook_names[target])
    totals: list[pd.DataFrame] = []
    for batch in scoring_batches(sequences, groups, batch_size, max_scored):
        acts = pair.split(pair.activations(batch.tokens.to(pair.device)))
        for name, values in acts.items():
            check_finite(values.flatten(0, 1), f"{pair.hook_names[name]} of {name}")
        site = Site(crosscoder, acts, batch.roles, target, exclusions)
        scores = _scores(upper, site, acts[target], batch, conditions)
        totals.append(_per_document(scores, batch, groups))
    if not totals:
        raise CrossdiffError(
            f"no position belongs to {' or '.join(groups)}: pass dialogues with assistant answers, "
            "rendered as chat"
        )
    return _means(pd.concat(totals, ignore_index=True))


def scoring_batches(
    sequences: Iterable[TokenSequence], groups: Groups, batch_size: int, max_scored: int
) -> Iterator[ScoringBatch]:
    """Sequences of similar length together; those without any scored position are left out."""
    waiting: list[TokenSequence] = []
    n_scored = 0
    for sequence in sorted(sequences, key=len):
        n = int(_scored(TokenRoles.of([sequence]), groups).sum())
        if not n:
            continue
        if waiting and (len(waiting) == batch_size or n_scored + n > max_scored):
            yield _batch(waiting, groups)
            waiting, n_scored = [], 0
        waiting.append(sequence)
        n_scored += n
    if waiting:
        yield _batch(waiting, groups)


def _batch(sequences: list[TokenSequence], groups: Groups) -> ScoringBatch:
    roles = TokenRoles.of(sequences)
    documents = torch.tensor([s.document for s in sequences])
    return ScoringBatch(
        padded([s.ids for s in sequences]), roles, documents, _scored(roles, groups)
    )


def _scored(roles: TokenRoles, groups: Groups) -> Tensor:
    has_next = torch.zeros_like(roles.real)
    has_next[:, :-1] = roles.real[:, 1:]
    chosen = torch.stack([choose(roles) for choose in groups.values()]).any(0)
    return chosen & has_next & roles.real


def _scores(
    upper: UpperLayers,
    site: Site,
    own: Float[Tensor, "batch pos d"],
    batch: ScoringBatch,
    conditions: Mapping[str, Sequence[Edit]],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Condition -> (KL, cross-entropy) of each scored position; "" is the unedited target."""
    tokens, at = batch.tokens.to(own.device), batch.scored.to(own.device)
    following = tokens.roll(-1, dims=1)[at]

    def logits(residual: Tensor) -> Tensor:
        return upper(residual.reshape(own.shape), tokens, at=at)

    reference = logits(own).float().log_softmax(dim=-1)
    clean = -reference.gather(1, following[:, None]).squeeze(1)
    scores = {"": (torch.zeros_like(clean), clean)}
    for name, edits in conditions.items():
        scores[name] = compare(reference, logits(apply_edits(edits, site)), following)
    return scores


def compare(
    reference: Float[Tensor, "n vocabulary"],
    logits: Float[Tensor, "n vocabulary"],
    following: Int[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """KL(reference || softmax(logits)) and cross-entropy of the following token, in float32.

    `reference` holds log-probabilities. A few positions at a time: a float32 row of Gemma's
    vocabulary is a megabyte.
    """
    kl, ce = [], []
    pieces = (t.split(_POSITIONS_AT_ONCE) for t in (reference, logits, following))
    for log_p, some, token in zip(*pieces, strict=True):
        log_q = some.float().log_softmax(dim=-1)
        kl.append(kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
        ce.append(-log_q.gather(1, token[:, None]).squeeze(1))
    return torch.cat(kl), torch.cat(ce)


def _per_document(
    scores: Mapping[str, tuple[Tensor, Tensor]], batch: ScoringBatch, groups: Groups
) -> pd.DataFrame:
    """Sums per document, condition and group of one batch."""
    documents = batch.documents[:, None].expand_as(batch.scored)[batch.scored].numpy()
    clean = scores[""][1].double().cpu().numpy()
    frames = []
    for group, choose in groups.items():
        inside = choose(batch.roles)[batch.scored].numpy()
        for name, (kl, ce) in scores.items():
            if not name:
                continue
            frame = pd.DataFrame(
                {
                    "document": documents,
                    "kl": kl.double().cpu().numpy(),
                    "ce": ce.double().cpu().numpy(),
                    "clean_ce": clean,
                    "positions": 1,
                }
            )[inside]
            sums = frame.groupby("document", as_index=False).sum()
            frames.append(sums.assign(condition=name, group=group))
    return pd.concat(frames, ignore_index=True)


def _means(sums: pd.DataFrame) -> pd.DataFrame:
    """Documents may be spread over several sequences: add up first, then divide."""
    total = sums.groupby(["document", "condition", "group"], sort=False).sum().reset_index()
    for column in ("kl", "ce", "clean_ce"):
        total[column] /= total["positions"]
    return total
