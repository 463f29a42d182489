from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sae_lens import SAE
from sae_lens.training.sae_trainer import SAETrainer

from sae_crossdiff import (
    ActivationsConfig,
    BatchTopKCrosscoderConfig,
    CrosscoderRunnerConfig,
    CrosscoderTrainer,
    CrosscoderTrainingRunner,
    CrossdiffError,
    HookedModelPair,
    L1CrosscoderConfig,
    PairConfig,
    TextConfig,
    TextSource,
    TrainingConfig,
    evaluate,
)
from sae_crossdiff.activations import ActivationStatistics, in_order
from sae_crossdiff.crosscoders import BatchTopKCrosscoder
from sae_crossdiff.testbeds.dialogues import load_dialogues, plain_text
from sae_crossdiff.training import PerModelScaler

QUIET = Console(file=io.StringIO())


def config_for(output: Path, **changes: Any) -> CrosscoderRunnerConfig:
    dialogues = [d.messages for d in load_dialogues("analysis")[:60]]
    config = CrosscoderRunnerConfig(
        pair=PairConfig("base", "chat", "blocks.1.hook_resid_post", dtype="float32"),
        text=TextConfig([TextSource(dialogues, kind="chat"), TextSource(plain_text(40))]),
        training=TrainingConfig(
            total_tokens=60 * 256, batch_size=256, lr=2e-3, lr_warm_up_steps=5, log_every=20
        ),
        crosscoders={
            "batchtopk": BatchTopKCrosscoderConfig(
                d_in=0, d_sae=128, k=8, topk_threshold_start_step=20, topk_threshold_lr=0.1
            ),
            "l1": L1CrosscoderConfig(d_in=0, d_sae=128, l1_coefficient=0.5, l1_warm_up_steps=20),
        },
        output_path=str(output),
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def run(pair: HookedModelPair, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("run")
    base = config_for(output)
    training = dataclasses.replace(base.training, n_checkpoints=1)
    config = dataclasses.replace(base, training=training)
    return CrosscoderTrainingRunner(config, pair=pair, console=QUIET).run()


def test_several_crosscoders_learn_from_the_same_batches(run: Any) -> None:
    assert not run.interrupted
    for name, crosscoder in run.crosscoders.items():
        quality = evaluate(crosscoder, in_order(run.data.held_out))
        assert min(quality["fve"].values()) > 0.3, name
        reloaded = SAE.load_from_disk(run.output_path / name)
        x = run.data.held_out.acts[:50]
        torch.testing.assert_close(reloaded(x), crosscoder(x), rtol=0, atol=0)
        assert reloaded.cfg.metadata.hook_name == "blocks.1.hook_resid_post"
        assert reloaded.cfg.metadata.provenance["models"] == {"base": "base", "chat": "chat"}
    l0 = evaluate(run.crosscoders["batchtopk"], in_order(run.data.held_out))["l0"]
    assert l0 == pytest.approx(8, rel=0.25)


def test_metrics_are_written_per_model_without_an_account(run: Any) -> None:
    lines = [json.loads(line) for line in (run.output_path / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if line["crosscoder"] == "l1"] == [20, 40, 60]
    last = [line for line in lines if line["crosscoder"] == "batchtopk"][-1]
    for key in (
        "losses/overall_loss",
        "losses/auxiliary_reconstruction_loss",
        "metrics/explained_variance",
        "metrics/explained_variance_base",
        "metrics/explained_variance_chat",
        "metrics/l0",
        "metrics/topk_threshold",
        "sparsity/dead_features",
        "details/current_learning_rate",
    ):
        assert key in last
    assert last["metrics/l0"] == pytest.approx(8)
    assert json.loads((run.output_path / "outliers.json").read_text())["kept"] > 1000


def test_resume_takes_the_same_steps_as_without_a_stop(
    run: Any, pair: HookedModelPair, tmp_path: Path
) -> None:
    [checkpoint] = (run.output_path / "checkpoints").iterdir()
    assert checkpoint.name == str(30 * 256)
    runner = CrosscoderTrainingRunner(
        config_for(tmp_path), pair=pair, data=run.data, console=QUIET, resume_from=checkpoint
    )
    resumed = runner.run()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [40, 40, 60, 60]
    for name, crosscoder in resumed.crosscoders.items():
        for weight in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
            torch.testing.assert_close(
                getattr(crosscoder, weight),
                getattr(run.crosscoders[name], weight),
                rtol=1e-3,
                atol=1e-4,
            )


def test_resume_checks_the_checkpoint_before_the_harvest(
    run: Any, pair: HookedModelPair, tmp_path: Path
) -> None:
    config = config_for(tmp_path)
    with pytest.raises(CrossdiffError, match="cannot resume from .*cfg.json is missing"):
        CrosscoderTrainingRunner(config, pair=pair, resume_from=tmp_path).run()
    [checkpoint] = (run.output_path / "checkpoints").iterdir()
    other = dataclasses.replace(config.crosscoders["batchtopk"], k=5)  # type: ignore[call-arg]
    changed = dataclasses.replace(config, crosscoders={"batchtopk": other})
    with pytest.raises(CrossdiffError, match="k is 5 in the config and 8 in"):
        CrosscoderTrainingRunner(changed, pair=pair, resume_from=checkpoint).run()


def at_call(n: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Do something just before the n-th `SAETrainer.step`; returns the list of calls so far."""
    real, calls = SAETrainer.step, []

    def step(self: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == n:
            act()
        return real(self, batch)

    monkeypatch.setattr(SAETrainer, "step", step)
    return calls


def test_ctrl_c_finishes_the_step_and_saves(
    run: Any, pair: HookedModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the middle of step 11: the second crosscoder is yet to come.
    calls = at_call(21, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    result = CrosscoderTrainingRunner(
        config_for(tmp_path), pair=pair, data=run.data, console=QUIET
    ).run()
    assert result.interrupted
    assert len(calls) == 22
    assert (tmp_path / "batchtopk" / "sae_weights.safetensors").exists()
    [checkpoint] = (tmp_path / "checkpoints").iterdir()
    assert checkpoint.name == str(11 * 256)
    assert sorted(p.name for p in checkpoint.iterdir()) == ["batchtopk", "l1"]


def test_an_error_leaves_a_checkpoint(
    run: Any, pair: HookedModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("disk on fire")

    at_call(21, fail, monkeypatch)
    runner = CrosscoderTrainingRunner(config_for(tmp_path), pair=pair, data=run.data, console=QUIET)
    with pytest.raises(RuntimeError, match="disk on fire"):
        runner.run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(10 * 256)]


def test_evaluation_leaves_the_dead_latent_counters_alone() -> None:
    """METHOD trap 4."""
    config = TrainingConfig(total_tokens=100, batch_size=10, lr_warm_up_steps=0)
    crosscoder = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=8, d_sae=16, k=1))
    trainer = CrosscoderTrainer(config, crosscoder, PerModelScaler.identity([4, 4]))
    for _ in range(3):
        output = trainer.train_step(torch.randn(10, 8))
    since = trainer.n_forward_passes_since_fired.clone()
    counts, threshold = trainer.act_freq_scores.clone(), crosscoder.topk_threshold.clone()
    fired = output.feature_acts.to_dense().sum(0) > 0
    assert bool((since[fired] == 0).all())
    assert bool((since[~fired] >= 1).all())
    crosscoder.encode(torch.randn(50, 8))
    crosscoder(torch.randn(50, 8))
    evaluate(trainer.export(), [torch.randn(50, 8)])
    assert torch.equal(trainer.n_forward_passes_since_fired, since)
    assert torch.equal(trainer.act_freq_scores, counts)
    assert torch.equal(crosscoder.topk_threshold, threshold)


def test_weights_that_diverged_are_not_exported() -> None:
    config = TrainingConfig(total_tokens=100, batch_size=10, lr_warm_up_steps=0)
    crosscoder = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=8, d_sae=16, k=1))
    trainer = CrosscoderTrainer(config, crosscoder, PerModelScaler.identity([4, 4]))
    trainer.train_step(torch.randn(10, 8))
    crosscoder.b_dec.data[2] = torch.nan
    with pytest.raises(CrossdiffError, match="diverged by step 1"):
        trainer.export()


def test_streaming_trains_too(pair: HookedModelPair, tmp_path: Path) -> None:
    activations = ActivationsConfig(keep_in_memory=False, buffer_size=1024, statistics_tokens=2000)
    config = config_for(tmp_path, activations=activations)
    config = dataclasses.replace(config, crosscoders={"l1": config.crosscoders["l1"]})
    result = CrosscoderTrainingRunner(config, pair=pair, console=QUIET).run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert lines[-1]["metrics/explained_variance"] > lines[0]["metrics/explained_variance"]
    assert result.data.held_out is None


def test_wrong_settings_fail_before_the_harvest(pair: HookedModelPair, tmp_path: Path) -> None:
    bad = {"x": BatchTopKCrosscoderConfig(d_in=64, d_sae=32, k=4)}
    with pytest.raises(CrossdiffError, match=r"d_in=64, but the pair gives 64 \+ 64 = 128"):
        CrosscoderTrainingRunner(config_for(tmp_path, crosscoders=bad), pair=pair).run()
    late = {"x": BatchTopKCrosscoderConfig(d_in=0, d_sae=32, k=4)}
    with pytest.raises(CrossdiffError, match="beyond this run's 60 steps"):
        CrosscoderTrainingRunner(config_for(tmp_path, crosscoders=late), pair=pair).run()


def test_nan_in_a_training_batch_is_an_error() -> None:
    config = TrainingConfig(total_tokens=100, batch_size=10, lr_warm_up_steps=0)
    crosscoder = BatchTopKCrosscoder(BatchTopKCrosscoderConfig(d_in=8, d_sae=16, k=2))
    trainer = CrosscoderTrainer(config, crosscoder, PerModelScaler.identity([4, 4]))
    batch = torch.randn(10, 8)
    batch[3] = torch.nan
    with pytest.raises(CrossdiffError, match="training batch 0: 1 of 10 tokens"):
        trainer.train_step(batch)


def test_scaler_is_per_model_and_survives_the_disk(tmp_path: Path) -> None:
    acts = torch.cat([torch.randn(500, 4) * 0.1 + 9, torch.randn(500, 4) * 25 - 70], dim=-1)
    statistics = ActivationStatistics([4, 4])
    statistics.update(acts)
    scaler = PerModelScaler.from_statistics(statistics)
    scaled = scaler(acts)
    for part in scaled.split(4, dim=-1):
        assert part.mean(0).abs().max() < 1e-3
        assert part.pow(2).sum(-1).mean() == pytest.approx(4, rel=1e-3)
    torch.testing.assert_close(scaler.unscale(scaled), acts, rtol=1e-4, atol=1e-3)
    scaler.save(str(tmp_path / "scaler.json"))
    loaded = PerModelScaler.identity([4, 4])
    loaded.load(tmp_path / "scaler.json")
    torch.testing.assert_close(loaded(acts), scaled)


def test_models_with_norms_25x_apart_weigh_the_same() -> None:
    """SAELENS: EV .95/.95 with one factor per model, against .70/.90 with a single one."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 16), dim=-1)
    code = torch.rand(4096, 40) * (torch.rand(4096, 40) < 0.05)
    shared = code @ directions
    acts = torch.cat([shared, 25 * shared.roll(1, dims=1)], dim=-1)
    statistics = ActivationStatistics([16, 16])
    statistics.update(acts)
    config = TrainingConfig(total_tokens=512 * 300, batch_size=512, lr=3e-3, lr_warm_up_steps=10)
    cfg = BatchTopKCrosscoderConfig(d_in=32, d_sae=64, k=4)
    trainer = CrosscoderTrainer(
        config, BatchTopKCrosscoder(cfg), PerModelScaler.from_statistics(statistics)
    )
    for step in range(300):
        trainer.train_step(acts[(step * 512) % 4096 :][:512])
    fve = evaluate(trainer.export(), [acts])["fve"]
    assert abs(fve["base"] - fve["chat"]) < 0.03
    assert min(fve.values()) > 0.85
