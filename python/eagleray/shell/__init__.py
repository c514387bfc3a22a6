"""A look at a run while it trains: functions, statements and programs beside all its workers, answers in rank order.

    with eagleray.connect("runs/first/store") as cluster:
        cluster.run(lambda: eagleray.shell.here().node)

`cluster` is the connection, `helper` what runs beside each worker, `program` the processes of `exec`, `prompt` the
prompt, `answers` how answers of many ranks are shown as one.
"""

from __future__ import annotations

from .cluster import Cluster, RankError, connect
from .place import Here, Place, World, here

__all__ = ["Cluster", "Here", "Place", "RankError", "World", "connect", "here"]
