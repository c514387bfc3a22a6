"""What an attempt may go on from: the newest commit of its run, refused where model, order or data are others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eagleray import _core
from eagleray._commit import require_fit

from .heading import kept_in, with_left_out
from .plan import Plan


def newest(store_url: str) -> dict[str, Any] | None:
    """The newest commit of a run, or None before the first."""
    text = _core.newest(store_url)
    return None if text is None else json.loads(text)


def last_end(store_url: str) -> dict[str, Any]:
    """How the newest attempt of a run ended; empty where there is none, or where it could not say."""
    store = _core.Store(store_url)
    names = [path.rsplit("/", 1)[-1] for path, _ in store.list("attempts")]
    claims = [name.removesuffix(".json") for name in names if name.endswith(".json") and name.count(".") == 1]
    newest_claim = max(claims, key=int, default=None)
    if newest_claim is None or f"{newest_claim}.end.json" not in names:
        return {}
    return json.loads(store.get(f"attempts/{newest_claim}.end.json"))  # type: ignore[no-any-return]


def superseded(store_url: str, attempt: int) -> _core.ConflictError:
    """What an attempt ends with that has found a newer one's claim."""
    return _core.ConflictError(f"attempt {attempt} was superseded: a newer attempt has claimed `{store_url}`")


def newest_fitting(plan: Plan) -> dict[str, Any] | None:
    """The newest commit, checked to be of this plan's model, order and datasets.

    Every attempt looks again when its workers start: between a driver's look and its claim, another may commit.
    """
    commit = newest(plan.store)
    if commit is not None:
        require_fit(commit, {key: plan.hashes[key] for key in ("model_hash", "order_hash")}, plan.engine)
        if plan.sources:
            require_same_data(plan, commit)
        commit = with_left_out(plan.store, commit)
    return commit


def require_same_data(plan: Plan, commit: Mapping[str, Any]) -> None:
    """Refuses a commit that was trained on other tokens: its next position would mean another sample.

    The order's state holds what every source contained; a corpus that was changed gives another dataset.
    """
    step, state = int(commit["step"]), commit["stream_state"]["order"]
    course = _core.Course(json.dumps(kept_in(commit)["left_out"]))
    order = _core.Order(json.dumps(plan.stream_config(0, 1, 0, len(course))))
    try:
        position = order.restore(json.dumps(state))
    except _core.InvalidError as error:
        message = getattr(error, "message", str(error))
        raise _core.InvalidError(
            f"checkpoint of step {step}: {message}\n"
            "  hint: the documents or the tokenizer of this run have changed since: put them back, name the dataset it "
            "was trained on with `tokens:`, or start a new run in another `store`"
        ) from error
    expected = course.end_of(step) * plan.global_batch
    if position != expected:
        raise _core.InvalidError(f"checkpoint of step {step}: stands at position {position}, expected {expected}")
