"""`quickstart`: where the time of the main job goes, from the report of a quickstart that has run.

The run is `./dev quickstart`'s, or the one whose folder stands in EAGLERAY_QUICKSTART. Shares are of the
step time (compute, data wait, checkpoint stall) or of the whole run, as the account of the ledger has them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("EAGLERAY_QUICKSTART") or Path(__file__).resolve().parent.parent / "quickstart")
REPORT = FOLDER / "runs" / "quickstart" / "report" / "report.json"
STEP_CAUSES = ("data_wait", "compute", "checkpoint_stall", "recompute")


def run() -> dict[str, Any]:
    """Reads the report."""
    if not REPORT.exists():
        raise SystemExit(f"error: there is no `{REPORT}`\n  hint: run `./dev quickstart` first")
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    shares: dict[str, float] = report["shares"]
    step = sum(shares.get(cause, 0.0) for cause in STEP_CAUSES)
    losses = report["validation"]["loss"]
    values = [
        ("data_wait_share_of_step", shares.get("data_wait", 0.0) / step if step else 0.0, "share"),
        ("unattributed_share", shares["unattributed"], "share"),
        ("checkpoint_stall_share_of_step", shares.get("checkpoint_stall", 0.0) / step if step else 0.0, "share"),
        ("tokens_per_second", report["tokens_per_second"], "tokens/s"),
        ("validation_loss_first", losses[0], "nat"),
        ("validation_loss_last", losses[-1], "nat"),
        ("steps", report["steps"], "steps"),
    ]
    return {"bench": "quickstart", "figures": [{"name": n, "value": v, "unit": u} for n, v, u in values]}
