from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sae_crossdiff import ActivationBatch, CrossdiffError, SparseCode
from sae_crossdiff.pair import HookedModelPair
from sae_crossdiff.reporting import (
    ExampleCollector,
    ExampleConfig,
    TokenTexts,
    load_examples,
    save_examples,
    top_contexts,
)
from sae_crossdiff.reporting.example_files import HISTOGRAMS
from sae_crossdiff.reporting.top_per_group import TopPerGroup

F = 6
CONFIG = ExampleConfig(n_top=3, n_sampled=5, before=3, after=2)


def text_with_code(n: int = 400, seed: int = 0) -> tuple[ActivationBatch, torch.Tensor]:
    """Documents of uneven lengths, some cut into sequences, some tokens left out; a dense code."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 30, (n,), generator=generator)
    documents = torch.repeat_interleave(torch.arange(n) // 2, lengths)[:n]
    sequence = torch.repeat_interleave(torch.arange(n), lengths)[:n]
    first = torch.searchsorted(sequence, sequence)
    positions = torch.arange(n) - first + 1
    ids = torch.randint(0, 1000, (n,), generator=generator)
    batch = ActivationBatch(
        torch.zeros(n, 2), ids, positions, documents, {"chat": documents % 3 == 0}
    )
    code = torch.rand(n, F, generator=generator) * (
        torch.rand(n, F, generator=generator) < torch.tensor([0.6, 0.3, 0.1, 0.02, 0.0, 1.0])
    )
    keep = torch.rand(n, generator=generator) < 0.95
    return batch.select(keep), code[keep]


def collected(batch: ActivationBatch, dense: torch.Tensor, size: int) -> ExampleCollector:
    collector = ExampleCollector(F, CONFIG)
    for start in range(0, len(batch), size):
        piece = slice(start, start + size)
        collector(batch.select(piece), SparseCode.from_dense(dense[piece]))
    return collector


def naive_top(batch: ActivationBatch, dense: torch.Tensor, latent: int, chat: bool) -> list[Any]:
    """(activation, document, position) of the strongest token of the strongest documents."""
    best: dict[int, tuple[float, int, int]] = {}
    for row in range(len(batch)):
        value, document = float(dense[row, latent]), int(batch.documents[row])
        if bool(batch.masks["chat"][row]) != chat or value <= 0:
            continue
        if document not in best or value > best[document][0]:
            best[document] = (value, document, int(batch.positions[row]))
    return sorted(best.values(), reverse=True)[: CONFIG.n_top]


def test_top_examples_equal_a_naive_search() -> None:
    batch, dense = text_with_code()
    examples = collected(batch, dense, 64).examples()
    for latent in range(F):
        for text in ("plain", "chat"):
            rows = examples.query("latent == @latent and text == @text and group == 'top'")
            found = rows[["activation", "document", "position"]].to_numpy()
            expected = naive_top(batch, dense, latent, text == "chat")
            np.testing.assert_allclose(found, np.array(expected).reshape(-1, 3), rtol=1e-6)
    assert 4 not in set(examples["latent"])  # it never fires


def test_windows_stay_in_their_sequence_and_carry_the_latents_activations() -> None:
    batch, dense = text_with_code()
    examples = collected(batch, dense, 50).examples()
    breaks = (batch.documents.diff() != 0) | (batch.positions.diff() <= 0)
    sequence = np.concatenate([[0], np.cumsum(breaks.numpy())])
    places = {
        (int(d), int(p), int(t)): i
        for i, (d, p, t) in enumerate(
            zip(batch.documents, batch.positions, batch.token_ids, strict=True)
        )
    }
    for row in examples.to_dict("records"):
        at = places[row["document"], row["position"], row["token"]]
        near = range(max(0, at - CONFIG.before), min(len(batch), at + CONFIG.after + 1))
        window = [i for i in near if sequence[i] == sequence[at]]
        assert row["tokens"].tolist() == batch.token_ids[window].tolist()
        assert row["activations"] == pytest.approx(dense[window, row["latent"]].numpy())
        assert row["activations"][row["peak"]] == pytest.approx(row["activation"])


@pytest.mark.parametrize("size", [1, 7, 33, 1000])
def test_batching_changes_nothing(size: int) -> None:
    batch, dense = text_with_code()
    expected, found = collected(batch, dense, 64), collected(batch, dense, size)
    pd.testing.assert_frame_equal(found.examples(), expected.examples())
    pd.testing.assert_frame_equal(found.histograms(), expected.histograms())


def test_samples_are_uniform_and_cut_into_quartiles() -> None:
    batch, dense = text_with_code(20_000)
    dense[:, 1:] = dense[:, :1] = torch.arange(len(batch))[:, None] + 1.0  # f = its own number
    collector = ExampleCollector(F, ExampleConfig(n_sampled=200))
    collector(batch, SparseCode.from_dense(dense))
    sampled = collector.examples().query("group == 'sample'")
    assert (sampled.groupby(["latent", "text"], observed=True).size() == 200).all()
    assert (sampled.groupby(["latent", "text", "bin"], observed=True).size() == 50).all()
    chat = batch.masks["chat"].numpy()
    # The mean of 6 x 200 numbers drawn uniformly, within five standard errors.
    for text, own in (("chat", chat), ("plain", ~chat)):
        population = np.flatnonzero(own) + 1.0
        drawn = sampled.loc[sampled["text"] == text, "activation"]
        assert abs(drawn.mean() - population.mean()) < 5 * population.std() / len(drawn) ** 0.5
    edges: Any = sampled.groupby(["latent", "text", "bin"], observed=True)["activation"]
    lows, highs = edges.min().unstack(), edges.max().unstack()
    assert (highs[[0, 1, 2]].to_numpy() < lows[[1, 2, 3]].to_numpy()).all()
    assert sampled.groupby("latent")["position"].apply(tuple).nunique() == F


def test_histograms_count_every_active_token() -> None:
    batch, dense = text_with_code()
    dense = dense * 100
    frame = collected(batch, dense, 64).histograms()
    chat = batch.masks["chat"].numpy()
    groups: Any = frame.groupby(["latent", "text"], observed=True)
    for (latent, text), rows in groups:
        values = dense[chat == (text == "chat"), latent].numpy()
        for low, high, tokens in rows[["low", "high", "tokens"]].to_numpy():
            assert high == pytest.approx(low * 2**0.5)
            assert tokens == ((values >= low) & (values < high)).sum()
        assert rows["tokens"].sum() == (values > 0).sum()


def test_top_per_group_against_sorting() -> None:
    rng = np.random.default_rng(0)
    groups, scores, keys = rng.integers(0, 5, 300), rng.random(300), rng.integers(0, 20, 300)
    kept = TopPerGroup(5, 4, {"number": np.array(-1)})
    for part in np.array_split(np.arange(300), 9):
        kept.offer(groups[part], scores[part], keys[part], lambda i, p=part: {"number": p[i]})
    for group in range(5):
        best = pd.DataFrame({"s": scores, "k": keys, "g": groups}).query("g == @group")
        best = best.sort_values("s", ascending=False).drop_duplicates("k").head(4)
        assert kept.payload["number"][group].tolist() == best.index.tolist()
        assert kept.keys[group].tolist() == best["k"].tolist()


def test_files_and_contexts(tmp_path: Path, pair: HookedModelPair) -> None:
    batch, dense = text_with_code()
    collector = collected(batch, dense, 64)
    table = pd.DataFrame({"delta": [0.5]})
    table.attrs = {"provenance": {"hook_name": "here"}, "quality": {"tokens": len(batch)}}
    save_examples(collector, table, tmp_path)
    everything = load_examples(tmp_path)
    assert everything.attrs == {"provenance": {"hook_name": "here"}, "n_tokens": len(batch)}
    some = load_examples(tmp_path, [2, 5], ["latent", "token"])
    assert set(some["latent"]) == {2, 5}
    assert list(some) == ["latent", "token"]
    histograms = load_examples(tmp_path, [1], name=HISTOGRAMS)
    assert histograms["tokens"].sum() == (dense[:, 1] > 0).sum()
    contexts = top_contexts(everything, [5], TokenTexts(pair.tokenizer), n=2, width=2)
    first = everything.query("latent == 5 and group == 'top'").nlargest(1, "activation").iloc[0]
    assert contexts[5][0].activation == pytest.approx(first["activation"])
    assert contexts[5][0].peak == pair.tokenizer.decode([first["token"]])
    with pytest.raises(CrossdiffError, match="crossdiff table"):
        load_examples(tmp_path / "elsewhere")


def test_parquet_loads_elsewhere(tmp_path: Path) -> None:
    collector = collected(*text_with_code(), 64)
    table = pd.DataFrame()
    table.attrs = {"provenance": {}, "quality": {"tokens": 1}}
    path, _ = save_examples(collector, table, tmp_path)
    expected = collector.examples()
    plain = pd.read_parquet(path)
    assert [list(t) for t in plain["tokens"]] == [list(t) for t in expected["tokens"]]
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(path)
    assert frame["tokens"].to_list() == [list(t) for t in expected["tokens"]]
    assert frame["activation"].to_list() == expected["activation"].tolist()


def test_token_texts_add_up(pair: HookedModelPair) -> None:
    text = "Ahoy, good question! Don't stop."
    ids = pair.tokenizer.encode(text, add_special_tokens=False)
    texts = TokenTexts(pair.tokenizer)
    assert "".join(texts[i] for i in ids) == text


def test_bad_input_is_refused() -> None:
    with pytest.raises(CrossdiffError, match="n_top=0"):
        ExampleConfig(n_top=0)
    with pytest.raises(CrossdiffError, match="without token ids"):
        ExampleCollector(F)(
            ActivationBatch.of(torch.zeros(3, 2)), SparseCode.from_dense(torch.ones(3, F))
        )
