"""The judge of make splits must itself be right."""

from types import SimpleNamespace
from typing import Any

from load import splits
from support.pipeline import HEADER


def test_what_is_lost_twice_or_wrong_is_counted(tmp_path):
    csv = tmp_path / "metric_log.csv"
    lines = ["ours-1,1.0,2.0,1.0", "ours-2,2.0,9.0,7.0", "theirs-1,0.5,0.75,0.25", "theirs-1,0.5,0.75,0.25"]
    csv.write_text("\n".join([HEADER, *lines, "ours-4,4.0,5.0,1.0", ""]))
    cluster: Any = SimpleNamespace(csv=csv)
    publisher: Any = SimpleNamespace(
        tried={"ours-1": 1, "ours-2": 2, "ours-3": 3, "ours-4": 4}, confirmed=["ours-1", "ours-2", "ours-3"]
    )
    # ours-3 and two of features' three are not there; ours-4 is, though nobody was told so.
    assert splits.judge(cluster, [publisher], from_features=3) == (5, 3, 1, 1)
