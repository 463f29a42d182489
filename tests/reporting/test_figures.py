from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sae_crossdiff.reporting.figures import NU_RANGE, delta_against_nu


def test_every_latent_is_drawn_once_with_its_interval() -> None:
    table = pd.DataFrame(
        {
            "delta": [0.5, 0.95, 0.02, 0.7, 0.5, 0.5],
            "bucket": ["shared", "chat-only", "base-only", "other", "shared", "shared"],
            "nu_error": [1.0, 0.1, -0.5, 0.4, 9.0, np.nan],
            "nu_error_low": [0.9, 0.05, -np.inf, 0.3, 8.0, np.nan],
            "nu_error_high": [1.2, 0.2, np.inf, 0.5, 10.0, np.nan],
            "null_nu_error": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            "active_tokens": [100, 100, 100, 10, 100, 100],
            "verdict": "shared",
        }
    )
    figure: Any = delta_against_nu({"L1": table, "BatchTopK": table.iloc[:2]}, "error", 0.2)
    drawn = {t.name: t for t in figure.data if t.xaxis == "x"}
    assert "other" not in drawn  # too few active tokens
    assert drawn["shared"].y.tolist() == [1.0]  # 9.0 is beyond the axis, NaN has no place
    np.testing.assert_allclose(drawn["shared"].error_y.array, [0.2])
    np.testing.assert_allclose(drawn["shared"].error_y.arrayminus, [0.1])
    assert drawn["base-only"].error_y.array[0] > NU_RANGE[1] - NU_RANGE[0]
    assert sorted(drawn["made-up latents"].y) == [0.0, 1.0, 2.0, 4.0]
    titles = [a.text for a in figure.layout.annotations[:2]]
    assert titles == ["L1: 3 latents, 1 beyond the axis", "BatchTopK: 2 latents, 0 beyond the axis"]
