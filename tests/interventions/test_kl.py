"""The causal test against one document at a time, in float64, without any batching."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sae_crossdiff import Crosscoder, CrossdiffError, HookedModelPair, TextSource, token_sequences
from sae_crossdiff.activations import TokenSequence
from sae_crossdiff.interventions import (
    Exclusions,
    kl_difference,
    kl_experiment,
    kl_table,
    latent_sets,
    pool_draws,
    single_latents,
    standard_conditions,
)
from sae_crossdiff.interventions.scoring import Reference, compare
from tests.interventions.conftest import random_crosscoder

CANONICAL = "blocks.1.hook_out"
SET = [3, 8, 20]


def naive_kl(
    pair: HookedModelPair, crosscoder: Crosscoder, sequence: TokenSequence, condition: str
) -> np.ndarray:
    """KL at every position of one document, from whole forwards of the chat model."""
    tokens = torch.from_numpy(sequence.ids)[None]
    acts = pair.activations(tokens)[0]
    base, chat = (x.double() for x in crosscoder.split(acts))
    code = crosscoder.encode(acts).double()
    W_base, W_chat = (W.double() for W in crosscoder.W_dec_per_model)
    b_base, b_chat = (b.double() for b in crosscoder.b_dec_per_model)
    template = torch.from_numpy(sequence.masks["template"])[:, None]
    everything = code @ (W_chat - W_base)
    h = {
        "none": base,
        "all": base + everything,
        "all and bias": base + everything + b_chat - b_base,
        "bias": base + b_chat - b_base,
        "error": chat - everything,
        "template only": torch.where(template, chat, base),
        "identity": chat,
        "some": base + code[:, SET] @ (W_chat - W_base)[SET],
    }[condition].clone()
    h[torch.from_numpy(sequence.masks["special"])] = chat[0]
    model = pair.models["chat"]
    hook = (CANONICAL, lambda t, hook: h[None].to(t))
    log_p = model(tokens)[0].double().log_softmax(-1)
    log_q = model.run_with_hooks(tokens, fwd_hooks=[hook])[0].double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).numpy()


def naive_groups(sequence: TokenSequence) -> dict[str, list[int]]:
    """Positions by group, counted with a plain loop over the turns."""
    groups: dict[str, list[int]] = {"all": [], "opening": [], "first": [], "rest": []}
    count = 0
    for i in range(len(sequence) - 1):
        if not sequence.masks["assistant"][i + 1]:
            count = 0
            continue
        groups["all"].append(i)
        if count == 0:
            groups["opening"].append(i)
        elif count < 10:
            groups["first"].append(i)
        else:
            groups["rest"].append(i)
        count += 1
    return groups


@torch.no_grad()
def test_kl_equals_single_documents_without_batching(
    pair: HookedModelPair, crosscoder: Crosscoder, sequences: list[TokenSequence]
) -> None:
    scores = kl_experiment(pair, crosscoder, sequences, {"some": SET}, batch_size=3)
    for sequence in sequences:
        positions = naive_groups(sequence)
        assert positions["first"]
        for condition in [*standard_conditions(), "some"]:
            wanted = naive_kl(pair, crosscoder, sequence, condition)
            ours = scores[
                (scores["document"] == sequence.document) & (scores["condition"] == condition)
            ].set_index("group")
            for group, where in positions.items():
                if not where:
                    assert group not in ours.index
                    continue
                assert ours.loc[group, "positions"] == len(where)
                expected = wanted[where].mean()
                assert ours.loc[group, "kl"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    table = kl_table(scores)
    assert table.loc["identity", "kl"] < 1e-6 < 0.01 < table.loc["none", "kl"]


@torch.no_grad()
def test_identities_on_every_architecture(
    family_pair: HookedModelPair, family_crosscoder: Crosscoder
) -> None:
    text = [
        [
            {"role": "user", "content": "w1 w2 w3"},
            {"role": "assistant", "content": f"w{i} w5 w6 w7"},
        ]
        for i in range(4)
    ]
    sequences = list(token_sequences([TextSource(text, kind="chat")], family_pair.tokenizer))
    conditions = {**standard_conditions({"every one": range(40)}), "nothing": ()}
    scores = kl_experiment(family_pair, family_crosscoder, sequences, conditions=conditions)
    table = kl_table(scores)
    assert table.loc["nothing", "kl"] == 0
    assert table.loc["identity", "kl"] < 1e-6
    assert table.loc["every one", "kl"] == pytest.approx(table.loc["all", "kl"], rel=1e-5)
    assert table.loc["none", "kl"] > 0.05
    clean = scores[scores["condition"] == "nothing"]
    np.testing.assert_allclose(clean["ce"], clean["clean_ce"])


@torch.no_grad()
def test_both_models_run_once_for_all_conditions(
    pair: HookedModelPair, crosscoder: Crosscoder, sequences: list[TokenSequence]
) -> None:
    counts = {"base": 0, "chat": 0, "chat above": 0}

    def counting(name: str) -> Any:
        def count(*_: Any) -> None:
            counts[name] += 1

        return count

    handles = [
        pair.models["base"].blocks[0].attn.register_forward_pre_hook(counting("base")),
        pair.models["chat"].blocks[0].attn.register_forward_pre_hook(counting("chat")),
        pair.models["chat"].blocks[2].attn.register_forward_pre_hook(counting("chat above")),
    ]
    try:
        kl_experiment(pair, crosscoder, sequences[:5], {"some": SET}, batch_size=8)
    finally:
        for handle in handles:
            handle.remove()
    # One token more on the chat model: whether its blocks return tuples is tried out first.
    assert counts == {"base": 1, "chat": 2, "chat above": len(standard_conditions()) + 1 + 2}


@torch.no_grad()
def test_excluded_tokens_keep_the_chat_models_activations(
    pair: HookedModelPair, crosscoder: Crosscoder, sequences: list[TokenSequence]
) -> None:
    nothing_left = Exclusions({"chat": 0.0})
    scores = kl_experiment(pair, crosscoder, sequences[:2], exclusions=nothing_left)
    assert (scores["kl"] == 0).all()


def test_kl_and_cross_entropy_of_known_distributions() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]]).repeat(70, 1)
    q = torch.tensor([[0.25, 0.5, 0.25]]).repeat(70, 1)
    kl, ce = compare(Reference.of(p.log() - 1.0), q.log() + 3.0, torch.full((70,), 1))
    np.testing.assert_allclose(kl, 0.25 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(ce, np.log(2), rtol=1e-6)


def made_up_scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for document in range(30):
        none = 2 + rng.random()
        for condition, kl in (
            ("none", none),
            ("half", none / 2),
            ("random 2 #0", none - 0.1),
            ("random 2 #1", none - 0.3),
        ):
            rows.append({"document": document, "condition": condition, "group": "all", "kl": kl})
    frame = pd.DataFrame(rows)
    return frame.assign(ce=0.0, clean_ce=0.0, positions=5)


def test_table_has_means_and_intervals_over_documents() -> None:
    scores = made_up_scores()
    table = kl_table(scores)
    none = scores.loc[scores["condition"] == "none", "kl"]
    interval = stats.ttest_1samp(none, 0).confidence_interval(0.95)
    assert table.loc["none", "kl"] == pytest.approx(none.mean())
    assert table.loc["none", "low"] == pytest.approx(interval.low)
    assert table.loc["none", "high"] == pytest.approx(interval.high)
    assert table.loc["half", "recovered"] == pytest.approx(0.5)
    assert table.loc["half", "recovered_low"] == pytest.approx(0.5)
    assert table.loc["none", "documents"] == 30
    pooled = pool_draws(scores)
    mean, low, high = kl_difference(pooled, "none", "random 2")
    assert (mean, low, high) == pytest.approx((0.2, 0.2, 0.2))
    with pytest.raises(CrossdiffError, match="no positions in the group"):
        kl_table(scores, "first")


def test_single_latents_are_the_first_by_score_among_the_living() -> None:
    table = pd.DataFrame(
        {"specificity": [0.9, np.nan, -1.0, 0.5, 0.7], "active_tokens": [29, 90, 90, 90, 90]}
    )
    assert single_latents(table, 2) == {"latent 4": [4], "latent 3": [3]}
    assert list(single_latents(table, 9)) == ["latent 4", "latent 3", "latent 2"]
    assert single_latents(table, 0) == {}
    with pytest.raises(CrossdiffError, match="none \\(0\\) or more"):
        single_latents(table, -3)


def test_sets_of_latents() -> None:
    rng = np.random.default_rng(1)
    n = 200
    table = pd.DataFrame(
        {
            "delta": rng.random(n),
            "nu_error": rng.normal(size=n),
            "nu_reconstruction": rng.normal(size=n),
            "active_tokens": np.arange(n) * 10,
            "verdict": ["chat-specific" if i in (50, 60, 70) else "shared" for i in range(n)],
        }
    )
    sets = latent_sets(table, draws=2)
    live = set(range(3, n))
    assert sets["verdict"] == [50, 60, 70]
    assert sets["top 3 by Δ"] == sorted(live, key=lambda j: -table["delta"][j])[:3]
    ranks = table.loc[3:, ["nu_error", "nu_reconstruction"]].abs().rank().sum(axis=1)
    assert sets["top 3 by ν"] == ranks.sort_values(kind="stable").index[:3].tolist()
    best, worst = set(sets["best half by ν"]), set(sets["worst half by ν"])
    assert best | worst == live
    assert not best & worst
    for draw in ("random 3 #0", "random 3 #1", "matched 3 #0"):
        assert len(set(sets[draw])) == 3
        assert not set(sets[draw]) & {50, 60, 70, *sets["top 3 by ν"]}
    assert sets["random 3 #0"] != sets["random 3 #1"]
    for one, other in zip([50, 60, 70], sets["matched 3 #0"], strict=True):
        assert abs(one - other) <= 20
    with pytest.raises(CrossdiffError, match="pass a size"):
        latent_sets(table.assign(verdict="shared"))
    with pytest.raises(CrossdiffError, match="too few"):
        latent_sets(table, size=150)


def test_nothing_to_score_is_an_error(pair: HookedModelPair) -> None:
    plain = list(token_sequences([TextSource(["No chat at all."])], pair.tokenizer))
    with pytest.raises(CrossdiffError, match="assistant answers"):
        kl_experiment(pair, random_crosscoder(pair), plain)
