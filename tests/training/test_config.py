from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_crossdiff import (
    BatchTopKCrosscoderConfig,
    CrosscoderRunnerConfig,
    CrossdiffError,
    L1CrosscoderConfig,
)

GOOD: dict[str, Any] = {
    "pair": {"base": "a", "chat": "b", "hook_name": "blocks.1.hook_resid_post"},
    "text": {"sources": [{"data": "t.jsonl", "kind": "plain", "weight": 2}]},
    "training": {"total_tokens": 20_000, "batch_size": 100, "lr_warm_up_steps": 10},
    "crosscoders": {
        "bt": {"architecture": "crosscoder_batchtopk", "d_sae": 64, "k": 4},
        "l1": {"architecture": "crosscoder_l1", "d_sae": 64, "l1_coefficient": 0.1},
    },
}


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_round_trip_through_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run.{suffix}"
    path.write_text(yaml.safe_dump(GOOD) if suffix == "yaml" else json.dumps(GOOD))
    config = CrosscoderRunnerConfig.from_file(path)
    assert isinstance(config.crosscoders["bt"], BatchTopKCrosscoderConfig)
    assert isinstance(config.crosscoders["l1"], L1CrosscoderConfig)
    assert config.training.total_steps == 200
    config.save(tmp_path / "again.json")
    again = CrosscoderRunnerConfig.from_file(tmp_path / "again.json")
    assert again.to_dict() == config.to_dict()


def changed(path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(GOOD)
    *parents, leaf = path.split(".")
    here = content
    for parent in parents:
        here = here[parent]
    if value is None:
        del here[leaf]
    else:
        here[leaf] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.learning_rate", 1, 'can not match "learning_rate"'),
        ("crosscoders.bt.topk", 5, "crosscoders.bt has unknown keys \\['topk'\\]"),
        ("crosscoders.bt.architecture", "topk", "use one of crosscoder_batchtopk"),
        ("crosscoders.bt.d_sae", None, "needs d_sae"),
        ("crosscoders.bt.k", 65, "raise d_sae"),
        ("crosscoders", {}, "at least one"),
        ("crosscoders", ["bt"], "must map names"),
        ("crosscoders.bt.d_sae", "many", "in crosscoders.bt"),
        ("training.lr", "fast", "in the config"),
        ("training.batch_size", -1, "must be positive"),
        ("text.sources", [{"data": "org/corpus"}], "harvest all of org/corpus: set text.n_tokens"),
        ("pair.base", None, 'missing value for field "pair.base"'),
        ("training.total_tokens", "many", "wrong value type"),
        ("training.total_tokens", 50, "less than one batch"),
        ("training.lr_warm_up_steps", 200, "leave nothing of the 200 steps"),
        ("text.sources", [{"data": "x", "kind": "prose"}], "'plain' or 'chat'|kind"),
    ],
)
def test_bad_config_is_a_one_line_error(path: str, value: Any, message: str) -> None:
    with pytest.raises(CrossdiffError, match=message) as caught:
        CrosscoderRunnerConfig.from_dict(changed(path, value))
    assert "\n" not in str(caught.value)


def test_yaml_reads_some_numbers_as_text() -> None:
    config = CrosscoderRunnerConfig.from_dict(changed("crosscoders.l1.l1_coefficient", "4.1e-02"))
    assert config.crosscoders["l1"].l1_coefficient == 0.041  # type: ignore[attr-defined]


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CrossdiffError, match="no config file"):
        CrosscoderRunnerConfig.from_file(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(CrossdiffError, match="must hold a mapping"):
        CrosscoderRunnerConfig.from_file(tmp_path / "list.yaml")
