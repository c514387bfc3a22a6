"""By what a service knows that two attempts are of one run."""

from __future__ import annotations

import hashlib

from eagleray import _core


def identity_of(store_url: str) -> str:
    """The same for all attempts of a run and for no other run, wherever the store is moved: out of the first claim."""
    claim = _core.Store(store_url).get("attempts/0001.json")
    return f"eagleray-{hashlib.blake2b(claim, digest_size=8).hexdigest()}"
