"""The connection to a run that trains: helpers beside its workers, and what they answer."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eagleray import _core

from .answers import collapsed, ranks_text
from .place import World, has_moved_on, running_world

if TYPE_CHECKING:
    from .helper import Answer

REACH_SECONDS = 5.0
START_SECONDS = 120.0
# What is interrupted has this long to say so.
INTERRUPT_SECONDS = 5.0
# A store is not asked more often whether the run has another world.
LOOK_SECONDS = 2.0
LOST = "its helper is gone, with its node or by force: connect again"

Show = Callable[[int, str, str], None]


class RankError(Exception):
    """Some ranks have failed: `failures` has the reason of each, `results` what the others answered, by rank."""

    def __init__(self, failures: Mapping[int, str], results: Mapping[int, Any]) -> None:
        self.failures = dict(failures)
        self.results = dict(results)
        reasons = "\n".join(collapsed(self.failures))
        asked = len(self.failures) + len(self.results)
        super().__init__(f"rank {ranks_text(self.failures)} of {asked} that were asked failed\n{reasons}")


@contextlib.contextmanager
def connect(
    run: str, *, ranks: Collection[int] | None = None, timeout_s: float = START_SECONDS, verbose: bool = False
) -> Iterator[Cluster]:
    """The connection to a run that trains, by its store or spec, beside all its ranks or some.

    Refuses a run that is not running, and a cluster that cannot be reached from here. What it starts holds no
    resources of the cluster and ends with the block.
    """
    with connected(running_world(str(run)), ranks=ranks, timeout_s=timeout_s, verbose=verbose) as cluster:
        yield cluster


@contextlib.contextmanager
def connected(
    world: World, *, ranks: Collection[int] | None = None, timeout_s: float = START_SECONDS, verbose: bool = False
) -> Iterator[Cluster]:
    """The same, where the world is known."""
    asked = _known(range(len(world.places)) if ranks is None else ranks, range(len(world.places)))
    _require_reach(world)
    import ray

    from eagleray import _ray

    _require_free(world, ray)
    namespace = f"eagleray-shell-{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        guest = _ray.joined(world.ray["address"], auth=world.ray["auth"], namespace=namespace, verbose=verbose)
        try:
            stack.enter_context(guest)
        except Exception as error:
            raise _unreachable(world, error) from error
        cluster = Cluster(world, _start(world, asked))
        cluster._await_all(timeout_s)
        yield cluster


class Cluster:
    """Helpers beside the ranks of one world of a run. Results are lists in rank order."""

    def __init__(self, world: World, helpers: dict[int, Any]) -> None:
        self.world = world
        self.ranks = sorted(helpers)
        self._helpers = helpers
        self._looked = time.monotonic()

    def run(
        self,
        function: Callable[..., Any],
        /,
        *arguments: Any,
        ranks: Collection[int] | None = None,
        timeout_s: float | None = None,
        **named: Any,
    ) -> list[Any]:
        """Calls the function beside each rank and returns what it returned there.

        `eagleray.shell.here()` tells it where it is. What it prints is shown when it is done. Raises `RankError`
        where it fails anywhere, or takes longer than `timeout_s`: then it is interrupted.
        """
        import ray
        from ray import cloudpickle

        # Once into Ray's store, however many helpers fetch it.
        sent = ray.put(cloudpickle.dumps((function, arguments, named)))
        answers, failures = self._answers(lambda helper: helper.run.remote(sent), ranks, timeout_s)
        for line in collapsed({rank: answer.told for rank, answer in answers.items()}):
            print(line)
        results: dict[int, Any] = {}
        for rank, answer in answers.items():
            if answer.error is not None or answer.value is None:
                failures[rank] = answer.error or "no value came back"
                continue
            try:
                results[rank] = cloudpickle.loads(answer.value)
            except Exception as error:
                failures[rank] = f"what it returned cannot be read here: {type(error).__name__}: {error}"
        if failures:
            raise RankError(failures, results)
        return [results[rank] for rank in sorted(results)]

    def enter(
        self, source: str, name: str = "<eagleray>", *, ranks: Collection[int] | None = None
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Runs a statement beside each rank, in the namespace that stays there: what each told, and why some failed."""
        answers, failures = self._answers(lambda helper: helper.enter.remote(source, name), ranks, None)
        failures |= {rank: answer.error for rank, answer in answers.items() if answer.error is not None}
        return {rank: answer.told for rank, answer in answers.items()}, failures

    def exec(self, argv: Sequence[str], *, ranks: Collection[int] | None = None, show: Show | None = None) -> list[int]:
        """Runs a program beside each rank and returns the exit codes; its lines are shown as they come.

        An interrupt ends the program everywhere. Raises `RankError` where a helper is lost.
        """
        import ray

        asked = self._asked(ranks)
        codes: dict[int, int] = {}
        failures: dict[int, str] = {}
        try:
            started = self._settle(
                {rank: self._helpers[rank].start.remote(list(argv)) for rank in asked}, failures, None
            )
            looks = {self._helpers[rank].look.remote(): rank for rank in started}
            while looks:
                done, _ = ray.wait(list(looks), num_returns=1)
                rank = looks.pop(done[0])
                for lines, code in self._settle({rank: done[0]}, failures, None).values():
                    for stream, line in lines:
                        (show or _show)(rank, stream, line)
                    if code is None:
                        looks[self._helpers[rank].look.remote()] = rank
                    else:
                        codes[rank] = code
        except BaseException:
            ending = [self._helpers[rank].end.remote() for rank in asked]
            ray.wait(ending, num_returns=len(ending), timeout=INTERRUPT_SECONDS)
            raise
        if failures:
            raise RankError(failures, codes)
        return [codes[rank] for rank in sorted(codes)]

    def _answers(
        self, send: Callable[[Any], Any], ranks: Collection[int] | None, timeout_s: float | None
    ) -> tuple[dict[int, Answer], dict[int, str]]:
        failures: dict[int, str] = {}
        sent = {rank: send(self._helpers[rank]) for rank in self._asked(ranks)}
        try:
            return self._settle(sent, failures, timeout_s), failures
        except BaseException:
            self._interrupt(sent)
            raise

    def _settle(self, sent: Mapping[int, Any], failures: dict[int, str], timeout_s: float | None) -> dict[int, Any]:
        """What came back; `failures` learns of what did not."""
        import ray

        done, late = ray.wait(list(sent.values()), num_returns=len(sent), timeout=timeout_s)
        ranks = {ref: rank for rank, ref in sent.items()}
        if late:
            self._interrupt({ranks[ref]: ref for ref in late})
            failures |= {ranks[ref]: f"no answer within {timeout_s:g} s; it was interrupted" for ref in late}
        answers: dict[int, Any] = {}
        for ref in done:
            try:
                answers[ranks[ref]] = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                failures[ranks[ref]] = f"{LOST}\n{str(error).strip()}"
            except ray.exceptions.RayError as error:
                failures[ranks[ref]] = str(error).strip()
        return dict(sorted(answers.items()))

    def _interrupt(self, sent: Mapping[int, Any]) -> None:
        import ray

        for rank in sent:
            self._helpers[rank].interrupt.remote()
        refs = list(sent.values())
        ray.wait(refs, num_returns=len(refs), timeout=INTERRUPT_SECONDS)

    def _asked(self, ranks: Collection[int] | None) -> list[int]:
        """The ranks, refused where they are none of ours or the run has another world by now."""
        asked = _known(self.ranks if ranks is None else ranks, self.ranks)
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            # A store that is away for a moment keeps nobody from asking helpers that are there.
            with contextlib.suppress(_core.UnavailableError):
                if has_moved_on(self.world):
                    raise _core.ConflictError(
                        f"run `{self.world.store}` has ended, or another world of workers has taken over: "
                        "these helpers stand beside workers that are gone\n  hint: connect again"
                    )
                self._looked = time.monotonic()
        return asked

    def _await_all(self, timeout_s: float) -> None:
        failures: dict[int, str] = {}
        self._settle({rank: helper.ready.remote() for rank, helper in self._helpers.items()}, failures, timeout_s)
        if failures:
            reasons = "\n".join(collapsed(failures))
            raise _core.UnavailableError(
                f"no helper could be started beside rank {ranks_text(failures)}\n{reasons}\n"
                "  hint: nodes may just have been lost: connect again"
            )


def _start(world: World, ranks: Collection[int]) -> dict[int, Any]:
    import ray

    from eagleray import _ray

    from .helper import Helper

    helpers: dict[int, Any] = {}
    # Two groups beside the thread of functions: one looks at programs, and may wait; the other is heard at once.
    actor: Any = ray.remote(num_cpus=0, num_gpus=0, max_restarts=0, concurrency_groups={"looking": 1, "control": 1})(
        _grouped(Helper)
    )
    for rank in ranks:
        place = world.of(rank)
        helpers[rank] = actor.options(scheduling_strategy=_ray.on_node(place.node)).remote(place)
    return helpers


def _grouped(helper: type) -> type:
    """The class with the threads of its methods named, which Ray wants on the methods themselves."""
    import ray

    groups = {"look": "looking", "start": "control", "end": "control", "interrupt": "control"}
    methods = {name: ray.method(concurrency_group=group)(getattr(helper, name)) for name, group in groups.items()}
    return type(helper.__name__, (helper,), methods)


def _known(ranks: Collection[int], known: Collection[int]) -> list[int]:
    unknown = sorted(set(ranks) - set(known))
    if unknown or not ranks:
        raise _core.InvalidError(f"expected some of the ranks {ranks_text(known)}, found {unknown or 'none'}")
    return sorted(set(ranks))


def _require_free(world: World, ray: Any) -> None:
    if ray.is_initialized():
        raise _core.ConflictError(
            "this process is connected to Ray already, and can be to one cluster only\n"
            "  hint: connect in another process, or call `ray.shutdown()` first"
        )
    if ray.__version__ != world.ray["version"]:
        raise _core.InvalidError(
            f"the cluster of `{world.store}` runs Ray {world.ray['version']}, found Ray {ray.__version__} here\n"
            f"  hint: `pip install 'ray[train]=={world.ray['version']}'`, or connect from an environment of the cluster"
        )


def _require_reach(world: World) -> None:
    """Refuses in seconds a cluster that Ray would look for for minutes."""
    host, _, port = world.ray["address"].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(world, error) from error


def _unreachable(world: World, error: Exception) -> _core.UnavailableError:
    line = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), type(error).__name__)
    return _core.UnavailableError(
        f"the Ray cluster of `{world.store}` cannot be reached at {world.ray['address']} from here: {line}\n"
        "  hint: connect on a machine of the cluster, as the user of the run; a Ray that wants a token looks for it in "
        "`~/.ray/auth_token` or `RAY_AUTH_TOKEN`"
    )


def _show(rank: int, stream: str, line: str) -> None:
    print(f"[{rank}] {line}", file=sys.stdout if stream == "stdout" else sys.stderr, flush=True)
