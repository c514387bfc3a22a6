"""A run's store as training leaves it, made in a second: two attempts, a lost worker, a killed driver.

`python tests/python/made_run.py DIR` writes one to look at.
"""

from __future__ import annotations

import json
import math
import random
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGAN = 1_750_000_000.0
GLOBAL_BATCH, SEQUENCE = 64, 512
EVENTS_PER_FLUSH = 400

Event = dict[str, Any]


@dataclass
class Writer:
    """The ledger of one attempt, in objects as the driver flushes them."""

    store: Path
    attempt: int
    events: list[Event] = field(default_factory=list)

    def add(self, kind: str, t: float, **fields: Any) -> None:
        self.events.append({"attempt": self.attempt, "writer": "driver", "t": t, "kind": kind, **fields})

    def span(self, cause: str, rank: int, generation: int, start: float, end: float) -> None:
        self.add("span", end, cause=cause, rank=rank, generation=generation, start=start, end=end)

    def write(self) -> None:
        folder = self.store / "ledger" / f"{self.attempt:04}"
        folder.mkdir(parents=True)
        for number, first in enumerate(range(0, len(self.events), EVENTS_PER_FLUSH), start=1):
            lines = "".join(json.dumps(event) + "\n" for event in self.events[first : first + EVENTS_PER_FLUSH])
            (folder / f"driver-{number:06}.jsonl").write_text(lines, encoding="utf-8")


@dataclass
class MadeRun:
    """A model of training that is just real enough to be read."""

    store: Path
    steps: int = 3000
    world: int = 4
    name: str = "made-run"
    draw: random.Random = field(default_factory=lambda: random.Random(11))
    reached: int = 0

    def attempt(self, number: int, resumed: int, claimed: float) -> tuple[Writer, float]:
        """Claims an attempt; returns its ledger and the time when its first workers run."""
        folder = self.store / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        claim = {
            "format": "eagleray.claim",
            "format_version": 1,
            "attempt": number,
            "claimed_us": int(claimed * 1e6),
            "pid_started": 1,
            "resumed_from": self.commit_dir(resumed, number - 1) if resumed else None,
            "host": "trainer-0",
            "pid": 1 << 30,
            "program": "0.1.0",
            "spec_hash": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        }
        (folder / f"{number:04}.json").write_text(json.dumps(claim), encoding="utf-8")
        writer = Writer(self.store, number)
        writer.add("attempt_start", claimed + 0.2, python="3.12.4", ray="2.60.0", torch="2.15.0")
        writer.add("generation", claimed + 0.4, generation=0, world=self.world, reason="start")
        entered = claimed + 11 + self.draw.random()
        for rank in range(self.world):
            writer.span("setup", rank, 0, claimed + 0.2, entered)
        return writer, entered

    @staticmethod
    def commit_dir(step: int, attempt: int) -> str:
        return f"checkpoints/step-{step:09}/{attempt:04}-{step // 250:04}"

    def commit(self, step: int, attempt: int, at: float) -> None:
        """A committed save of one small file, as the protocol leaves it."""
        folder = self.store / self.commit_dir(step, attempt)
        folder.mkdir(parents=True)
        data = f"weights of step {step}".encode()
        files = [{"name": "__0_0.distcp", "bytes": len(data), "crc32c": f"{crc32c(data):08x}"}]
        (folder / "__0_0.distcp").write_bytes(data)
        (folder / "segment-00000.json").write_text(json.dumps({"rank": 0, "files": files}), encoding="utf-8")
        body = {
            "format": "eagleray.commit",
            "format_version": 1,
            "dir": self.commit_dir(step, attempt),
            "attempt": attempt,
            "save": step // 250,
            "committed_us": int(at * 1e6),
            "files": files,
            "engine": "torch.dcp",
            "step": step,
            "world": 1,
        }
        line = json.dumps(body).encode()
        (folder / "COMMIT").write_bytes(line + f"\ncrc32c={crc32c(line):08x}\n".encode())

    def validate(self, writer: Writer, generation: int, step: int, t: float) -> float:
        end = t + 2.1
        for rank in range(self.world):
            writer.span("validation", rank, generation, t, end)
        for name, offset in (("web-ko", 0.0), ("code", -0.7)):
            loss = self.loss(step) + 0.06 + offset
            figures = {"name": name, "step": step, "loss": loss, "samples": 256, "start": t, "end": end}
            writer.add("validation", end, rank=0, generation=generation, **figures)
        return end

    @staticmethod
    def loss(step: int) -> float:
        return 3.1 + 6.2 * math.exp(-step / 180) + 1.4 * math.exp(-step / 1400)

    def train(self, writer: Writer, generation: int, first: int, last: int, t: float) -> float:
        """Steps `first` to `last`, with saves every 250 and validation every 500."""
        for step in range(first, last + 1):
            slow = 1.9 if 1400 < step < 1460 else 1.0
            # The all-reduce ends the step on all ranks at once: who waited for data computes less long.
            end = t + (0.38 + self.draw.gauss(0, 0.012)) * slow
            for rank in range(self.world):
                wait = min(self.draw.expovariate(1 / 0.002) * (11 if slow > 1 else 1), 0.1)
                fields: Event = {"step": step, "position": (step - 1) * GLOBAL_BATCH, "recompute": step <= self.reached}
                fields |= {"start": t, "end": end, "data_wait": wait, "compute": end - t - wait - 0.001}
                if rank == 0:
                    key = f"{zlib.crc32(str(step).encode()):016x}"
                    loss = self.loss(step) + self.draw.gauss(0, 0.05)
                    fields |= {"loss": loss, "lr": 3e-4, "grad_norm": 0.8, "tokens": GLOBAL_BATCH * SEQUENCE}
                    fields |= {"order_digest": key, "token_digest": key[::-1], "world": self.world}
                    fields |= {"total_steps": self.steps}
                writer.add("step", end, rank=rank, generation=generation, checkpoint_stall=0.0, **fields)
            t = end
            if step % 500 == 0:
                t = self.validate(writer, generation, step, t)
            if step % 250 == 0:
                t = self.save(writer, generation, step, t)
        self.reached = max(self.reached, last)
        return t

    def save(self, writer: Writer, generation: int, step: int, t: float) -> float:
        """A save in the background, but for the last, which is waited for."""
        staged = t + (6.5 if step == self.steps else 0.3)
        for rank in range(self.world):
            writer.span("checkpoint_stall", rank, generation, t, staged)
        fields = {"step": step, "dir": self.commit_dir(step, writer.attempt), "start": t, "staged": staged}
        fields |= {"committed": t + 6.5, "bytes": 1_740_000_000, "stall": 0.3}
        writer.add("checkpoint", t + 6.5, rank=0, generation=generation, **fields)
        self.commit(step, writer.attempt, t + 6.5)
        return staged

    def lose_worker(self, writer: Writer, generation: int, t: float) -> float:
        """A worker is killed: seen after a while, a new world formed, the checkpoint loaded."""
        seen = t + 4
        writer.add("failure", seen, generation=generation, reason="the worker of rank 2 died: killed by signal 9")
        for rank in range(self.world):
            writer.span("detection", rank, generation, t, seen)
        generation += 1
        writer.add("generation", seen + 3, generation=generation, world=self.world, reason="a worker was lost")
        for rank in range(self.world):
            writer.span("reform", rank, generation, seen, seen + 17)
            writer.span("load", rank, generation, seen + 17, seen + 20)
        return seen + 20

    def make(self, outcome: str | None = "completed") -> Path:
        """Two attempts: in the first a worker is lost and then the driver killed; the second ends."""
        spec = {"name": self.name, "train": {"steps": self.steps}, "data": {"validation": {"web-ko": {}, "code": {}}}}
        resolved = {"format": "eagleray.resolved", "format_version": 1, "spec_hash": "af13", "spec": spec}
        self.store.mkdir(parents=True, exist_ok=True)
        (self.store / "resolved.json").write_text(json.dumps(resolved), encoding="utf-8")
        lost, killed = self.steps // 3 + 130, self.steps // 2 + 90
        writer, t = self.attempt(1, 0, BEGAN)
        t = self.validate(writer, 0, 0, t)
        t = self.train(writer, 0, 1, lost, t)
        t = self.lose_worker(writer, 0, t)
        t = self.train(writer, 1, lost // 250 * 250 + 1, killed, t)
        writer.write()
        resumed = killed // 250 * 250
        writer, t = self.attempt(2, resumed, t + 75)
        for rank in range(self.world):
            writer.span("load", rank, 0, t, t + 3)
        t = self.train(writer, 0, resumed + 1, self.steps, t + 3)
        if outcome is not None:
            for rank in range(self.world):
                writer.span("setup", rank, 0, t, t + 1)
            writer.add("attempt_end", t + 1, outcome=outcome, step=self.steps)
            end = {"outcome": outcome, "step": self.steps, "ended_us": int((t + 1) * 1e6)}
            (self.store / "attempts/0002.end.json").write_text(json.dumps(end), encoding="utf-8")
        writer.write()
        return self.store


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


if __name__ == "__main__":
    MadeRun(Path(sys.argv[1])).make()
