"""Functions, statements and programs beside the workers of a run that trains, and a run that does not notice."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import eagleray
from conftest import SURVIVAL_STEPS, make_run
from eagleray import _core, _ray, shell
from eagleray.shell import answers
from package import PYTHON
from test_cli_install import BINARY
from test_elastic import RAY, Cluster
from training import Corpus, Run, processes_with, wait_until

pytestmark = pytest.mark.timeout(900)
TAG = "EAGLERAY_TEST_SHELL"


@pytest.fixture(scope="module")
def start_running(
    corpus: Corpus, undisturbed: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Run]]:
    """Starts a run of two workers that goes on until it is stopped; one that still goes on is given again."""
    del undisturbed  # It has built the datasets.
    made: list[Run] = []

    def start() -> Run:
        if not made or made[-1].drivers[-1].process.poll() is not None:
            made.append(make_run(corpus, tmp_path_factory.mktemp("looked-at"), steps=1_000_000, every="5000 steps"))
            made[-1].start()
        return made[-1]

    yield start
    for run in made:
        run.end()


@pytest.fixture
def running(start_running: Callable[[], Run]) -> Run:
    """A run in the midst of its steps, which tests have in common until one of them ends it."""
    run = start_running()
    wait_until(lambda: (run.store / "world" / "0001.json").exists() and len(run.steps()) > 10, run.drivers[-1])
    return run


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster of this machine that wants no token."""
    made = Cluster()
    try:
        yield made
    finally:
        made.end()


def command(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What `eagleray shell` and `eagleray exec` replace themselves by, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "eagleray.shell", *arguments],
        input=text,
        env=clean() | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def installed(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """The same from its beginning, in the binary of the wheel."""
    return subprocess.run(
        [str(BINARY), *arguments], input=text, env=clean(), capture_output=True, text=True, timeout=240
    )


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "EAGLERAY_"))}


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def argv(*words: str) -> list[str]:
    return [f"--argument={word}" for word in words]


def test_functions_run_beside_all_ranks_and_answer_in_order(running: Run, capsys: pytest.CaptureFixture[str]) -> None:
    workers = {pid for driver in running.drivers for pid in driver.workers()}

    def look(factor: int, *, plus: int) -> tuple[int, int, int, int, str]:
        import os

        from eagleray import shell

        print("looking")
        here = shell.here()
        return here.rank * factor + plus, here.world, here.pid, os.getpid(), os.environ["OMP_NUM_THREADS"]

    with eagleray.connect(str(running.store)) as cluster:
        assert cluster.ranks == [0, 1]
        found = cluster.run(look, 10, plus=5)
        assert [each[:2] for each in found] == [(5, 2), (15, 2)]
        assert {each[2] for each in found} == workers
        helpers = [each[3] for each in found]
        assert not workers & set(helpers)
        assert capsys.readouterr().out == "[0-1] looking\n"
        assert cluster.run(lambda: shell.here().rank, ranks=[1]) == [1]
        assert cluster.run(os.getpid) == helpers
        with pytest.raises(_core.InvalidError, match=r"expected some of the ranks 0-1, found \[7\]"):
            cluster.run(os.getpid, ranks=[7])
        with pytest.raises(_core.InvalidError, match="has an answer only beside a worker"):
            shell.here()
    # Helpers end with the connection.
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in helpers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_error_names_the_rank_and_keeps_what_the_others_answered(running: Run) -> None:
    def fail_on_one() -> int:
        from eagleray import shell

        if shell.here().rank == 1:
            raise ValueError("not this one")
        return 7

    def hang_on_one() -> int:
        import time

        from eagleray import shell

        while shell.here().rank == 1:
            time.sleep(0.01)
        return 8

    def unreadable() -> Any:
        import threading

        return threading.Lock()

    with eagleray.connect(str(running.store)) as cluster:
        with pytest.raises(shell.RankError, match="rank 1 of 2 that were asked failed") as failed:
            cluster.run(fail_on_one)
        assert failed.value.results == {0: 7}
        assert "in fail_on_one" in failed.value.failures[1]
        assert failed.value.failures[1].endswith("ValueError: not this one\n")
        assert "helper.py" not in failed.value.failures[1]
        with pytest.raises(shell.RankError, match="no answer within 1 s") as late:
            cluster.run(hang_on_one, timeout_s=1.0)
        assert late.value.results == {0: 8}
        # It was interrupted, so the next one has its turn.
        assert cluster.run(lambda: shell.here().rank, timeout_s=30.0) == [0, 1]
        with pytest.raises(shell.RankError, match="cannot pickle") as odd:
            cluster.run(unreadable)
        assert set(odd.value.failures) == {0, 1}
        os.kill(cluster.run(os.getpid)[0], signal.SIGKILL)
        with pytest.raises(shell.RankError, match="connect again") as lost:
            cluster.run(lambda: shell.here().rank)
        assert lost.value.results == {1: 1}


def test_statements_through_a_pipe_keep_their_names_and_equal_answers_are_one_line(running: Run) -> None:
    text = """\
import os
x = rank * 10
x
for i in range(2):
    print("i", i)

world
def f(a):
    return a + x

f(1)
1 +
%local len(cluster.ranks)
%local for rank in cluster.ranks:
print("to", "both"); 1 / rank
here().pid > 0
"""
    done = command("prompt", str(running.store), text=text)
    assert done.stdout.splitlines() == [
        "[0] 0",
        "[1] 10",
        "[0-1] i 0",
        "[0-1] i 1",
        "[0-1] 2",
        "[0] 1",
        "[1] 11",
        "2",
        "[0] to both",
        "[1] to both",
        "[1] 1.0",
        "[0-1] True",
    ]
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    assert "[0] ZeroDivisionError: division by zero" in done.stderr
    assert '[0]     print("to", "both"); 1 / rank' in done.stderr
    assert "`%local` takes a whole statement on its line" in done.stderr
    assert ">>>" not in done.stdout + done.stderr


def test_programs_show_their_lines_by_rank_and_the_highest_exit_code(running: Run) -> None:
    script = 'echo "$EAGLERAY_RANK of $EAGLERAY_WORLD"; echo aside >&2; test -d /proc/$EAGLERAY_WORKER_PID || exit 9; '
    done = command("exec", str(running.store), *argv("sh", "-c", script + "exit $((EAGLERAY_RANK * 3))"))
    assert sorted(done.stdout.splitlines()) == ["[0] 0 of 2", "[1] 1 of 2"]
    assert sorted(done.stderr.splitlines()) == ["[0] aside", "[1] aside"]
    assert done.returncode == 3
    missing = command("exec", str(running.store), "--ranks=1", *argv("/no/such/program"))
    assert (missing.returncode, missing.stdout) == (127, "")
    assert missing.stderr == "[1] cannot run `/no/such/program`: No such file or directory\n"
    wrong = command("exec", str(running.store), "--ranks=0-5", *argv("true"))
    assert wrong.returncode == 1
    assert "the run has ranks 0-1, not `0-5`" in wrong.stderr


def test_the_installed_binary_hands_over_its_arguments_its_input_and_the_exit_code(running: Run) -> None:
    store = str(running.store)
    typed = installed("shell", store, "--ranks", "1", text="if world:\n    rank")
    assert (typed.returncode, typed.stdout, typed.stderr) == (0, "[1] 1\n", "")
    # What looks like an option after `--` is the program's.
    script = 'echo "$EAGLERAY_RANK" "$@"; kill -9 $$'
    program = ["sh", "-c", script, "sh", "--ranks", "--", "a b"]
    once = installed("exec", store, "--once-per-node", "--format", "json", "--", *program)
    assert once.returncode == 137, once.stderr
    [told] = json.loads(once.stdout)["ranks"]
    assert (told["rank"], told["code"], told["stdout"]) == (0, 137, ["0 --ranks -- a b"])
    refused = installed("shell", store, "--format", "json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["kind"]) == (1, "invalid")


def test_a_terminal_has_prompts_and_a_history_and_is_left_by_its_end(running: Run, tmp_path: Path) -> None:
    # A home of its own for the history; the token of the cluster lies in the user's.
    home = {"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": str(Path.home() / ".ray" / "auth_token")}
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [str(BINARY), "shell", str(running.store)],
            env=clean() | home | {"TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown = ""

        def until(text: str) -> str:
            """What is shown up to this text, from the text before on."""
            nonlocal shown
            deadline = time.monotonic() + 120
            while text not in shown:
                ready, _, _ = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))
                assert ready, shown
                shown += os.read(ours, 4096).decode()
            seen, _, shown = shown.partition(text)
            return seen

        def keys(text: str) -> None:
            os.write(ours, text.encode())

        banner = until(">>> ")
        assert f"{running.store}: rank 0-1 of 2, attempt 1, generation 0" in banner
        keys("for i in range(2):\n")
        until("... ")
        keys("    rank * 0 + 41 + i\n")
        until("... ")
        keys("\n")
        assert until(">>> ").splitlines()[-2:] == ["[0-1] 41", "[0-1] 42"]
        # Whoever sits there has seen it: it is no reason to leave with an error.
        keys("here().nothing\n")
        assert "AttributeError" in until(">>> ")
        keys("\x04")
        assert process.wait(timeout=60) == 0
    finally:
        os.close(ours)
    assert "    rank * 0 + 41 + i" in (tmp_path / ".eagleray_history").read_text(encoding="utf-8")


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_programs_end_everywhere_with_whoever_started_them(running: Run, blow: signal.Signals) -> None:
    script = f"{TAG}={blow.name}; export {TAG}; sleep 600 & sleep 600; wait"
    process = subprocess.Popen(
        [sys.executable, "-m", "eagleray.shell", "exec", str(running.store), *argv("sh", "-c", script)],
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    driver = running.drivers[-1]
    wait_until(lambda: len(list(processes_with(TAG, blow.name))) == 4, driver)
    process.send_signal(blow)
    _, told = process.communicate(timeout=60)
    wait_until(lambda: not list(processes_with(TAG, blow.name)), driver)
    if blow == signal.SIGINT:
        assert (process.returncode, told) == (130, "stopped\n")


def test_a_process_goes_from_a_cluster_with_a_token_to_one_without_and_back(
    running: Run, nodes: Cluster, tmp_path: Path
) -> None:
    with _ray.joined(nodes.address, auth="disabled", namespace="test", verbose=False):
        node = ray.get_runtime_context().get_node_id()
    # What is told of a run of one rank there, with this process for its driver and its worker.
    here = os.uname().nodename
    _core.claim(str(tmp_path), json.dumps({"host": here, "pid": os.getpid()}))
    reach = {"address": nodes.address, "version": ray.__version__, "auth": "disabled"}
    place = {"node": node, "address": "127.0.0.1", "pid": os.getpid(), "local_rank": 0, "gpus": []}
    _core.put_world(str(tmp_path), json.dumps({"attempt": 1, "generation": 0, "ray": reach, "ranks": [place]}))
    for _ in range(2):
        with eagleray.connect(str(running.store)) as cluster:
            assert cluster.world.ray["auth"] == "token"
            assert cluster.run(lambda: shell.here().rank) == [0, 1]
        with eagleray.connect(str(tmp_path)) as cluster:
            assert cluster.run(lambda: shell.here().node) == [node]


# Ray ends a process that has lost its cluster, at times before it can say a word: a process of its own.
LOOKER = """
import sys
import eagleray
from eagleray import shell

with eagleray.connect(sys.argv[1]) as cluster:
    assert cluster.enter("sum(range(1000))") == ({0: "499500\\n", 1: "499500\\n"}, {})
    assert cluster.exec(["true"]) == [0, 0]
    print("connected", flush=True)
    while True:
        assert cluster.run(lambda: shell.here().rank) == [0, 1]
        print("looked", flush=True)
"""


def client(code: str, run: Run) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(run.store)],
        env=clean(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line of a client, which has not ended before it."""
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line.strip()


@pytest.mark.long
def test_a_run_that_is_looked_at_to_its_last_step_has_not_noticed(
    new_run: Callable[..., Run], undisturbed: Run
) -> None:
    run = new_run(steps=SURVIVAL_STEPS)
    driver = run.start()
    wait_until((run.store / "world" / "0001.json").exists, driver)
    # It waits for who looks, or would be through before the first look.
    workers = driver.workers()
    assert len(workers) == 2
    signal_all(workers, signal.SIGSTOP)
    looking = client(LOOKER, run)
    try:
        assert line_of(looking) == "connected"
        began = max(run.history(), default=0)
        signal_all(workers, signal.SIGCONT)
        assert driver.wait() == 0, driver.text()
        out, told = looking.communicate(timeout=120)
    finally:
        looking.kill()
    assert looking.returncode != 0
    assert "connect again" in told or "Traceback" not in told, told
    assert began < SURVIVAL_STEPS / 2
    assert out.count("looked") > 10
    assert run.digests() == undisturbed.digests()
    assert run.loss_drift(undisturbed) < 1e-5
    assert len(run.events("generation")) == 1
    assert not run.events("failure")


def test_another_world_and_the_end_are_told_to_who_is_connected_and_to_who_connects(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eagleray.shell.cluster.LOOK_SECONDS", 0.0)
    driver = running.drivers[-1]
    with eagleray.connect(str(running.store)) as cluster:
        os.kill(driver.workers()[0], signal.SIGKILL)
        wait_until(lambda: world(running).get("generation") == 1, driver)
        with pytest.raises(_core.ConflictError, match="connect again"):
            cluster.run(os.getpid)
    with eagleray.connect(str(running.store), ranks=[0]) as cluster:
        assert cluster.world.generation == 1
        assert cluster.run(lambda: shell.here().pid)[0] in driver.workers()
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait() == 130, driver.text()
    assert not (running.store / "world" / "0001.json").exists()
    with pytest.raises(_core.NotFoundError, match="has ended: attempt 1 is stopped at step"), refused(running):
        pass


STANDER = """
import json
import sys
import eagleray

def stand():
    import ray

    return str(ray.get_runtime_context().get_node_id())

with eagleray.connect(sys.argv[1]) as cluster:
    places = [place.node for place in cluster.world.places]
    print(json.dumps([cluster.run(stand), places, cluster.world.once_per_node([0, 1])]), flush=True)
    sys.stdin.readline()
    cluster.run(stand, timeout_s=120.0)
"""


def test_helpers_stand_on_the_nodes_of_their_ranks_and_a_lost_node_is_told(
    nodes: Cluster, new_run: Callable[..., Run], undisturbed: Run
) -> None:
    del undisturbed  # It has built the datasets.
    tags = [nodes.add(), nodes.add()]
    run = new_run(steps=1_000_000, every="100000 steps")
    driver = run.start(RAY_ADDRESS=nodes.address, **RAY)
    wait_until((run.store / "world" / "0001.json").exists, driver)
    standing = client(STANDER, run)
    try:
        stood, places, one_each = json.loads(line_of(standing))
        assert stood == places
        assert len(set(stood)) == 2
        assert one_each == [0, 1]
        nodes.kill(tags[1])
        _, told = standing.communicate("go on\n", timeout=240)
    finally:
        standing.kill()
    assert standing.returncode != 0
    assert "connect again" in told, told


def world(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.store / "world" / "0001.json").read_text(encoding="utf-8"))
    return found


def refused(run: Run | Path) -> Any:
    return eagleray.connect(str(run.store if isinstance(run, Run) else run))


def test_what_is_not_running_is_refused_with_the_reason(
    new_run: Callable[..., Run], undisturbed: Run, tmp_path: Path
) -> None:
    with pytest.raises(_core.NotFoundError, match="no run has started"), refused(tmp_path):
        pass
    with pytest.raises(_core.NotFoundError, match=f"is completed at step {SURVIVAL_STEPS}"), refused(undisturbed):
        pass
    run = new_run()
    # By its spec, as by its store.
    with pytest.raises(_core.NotFoundError, match="no run has started"), refused(run.resolved.parent / "run.yaml"):
        pass
    _core.claim(str(run.store), json.dumps({"host": os.uname().nodename, "pid": 1 << 30}))
    with pytest.raises(_core.NotFoundError, match="gives no sign of life"), refused(run):
        pass
    _core.claim(str(run.store), json.dumps({"host": os.uname().nodename, "pid": os.getpid()}))
    with pytest.raises(_core.UnavailableError, match="workers of attempt 2 are not up yet"), refused(run):
        pass
    (run.store / "world").mkdir()
    (run.store / "world" / "0002.json").write_text("rubbish", encoding="utf-8")
    with pytest.raises(_core.CorruptError, match=r"world/0002\.json"), refused(run):
        pass
    done = command("exec", str(run.store), "--format=json", *argv("true"))
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (1, "corrupt")


def test_a_cluster_that_is_not_there_or_another_ray_is_refused_at_once(new_run: Callable[..., Run]) -> None:
    run = new_run()
    _core.claim(str(run.store), json.dumps({"host": os.uname().nodename, "pid": os.getpid()}))
    place = {"node": "ab", "address": "127.0.0.1", "pid": 1, "local_rank": 0, "gpus": []}
    # Nothing listens on port 1.
    ray = {"address": "127.0.0.1:1", "version": "2.0.0", "auth": "disabled"}
    _core.put_world(str(run.store), json.dumps({"attempt": 1, "generation": 0, "ray": ray, "ranks": [place]}))
    began = time.monotonic()
    with pytest.raises(_core.UnavailableError, match=r"cannot be reached at 127\.0\.0\.1:1 .*refused"), refused(run):
        pass
    assert time.monotonic() - began < 10
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        there = ray | {"address": f"127.0.0.1:{server.getsockname()[1]}"}
        _core.put_world(str(run.store), json.dumps({"attempt": 1, "generation": 0, "ray": there, "ranks": [place]}))
        with pytest.raises(_core.InvalidError, match=r"runs Ray 2\.0\.0, found Ray"), refused(run):
            pass


def test_where_ranks_are_is_told_once_all_have_come_and_taken_back(tmp_path: Path) -> None:
    from eagleray.train.whereabouts import Whereabouts

    def told() -> dict[str, Any] | None:
        text = _core.world_of_attempt(str(tmp_path), 1)
        return None if text is None else json.loads(text)

    place = {"node": "ab", "address": "10.0.0.7", "pid": 1, "local_rank": 0, "gpus": ["3"]}
    place["ray"] = {"address": "10.0.0.1:6379", "version": "2.60.0", "auth": "token"}
    whereabouts = Whereabouts(str(tmp_path), 1)
    for generation, world in enumerate((2, 1)):
        whereabouts.begin(generation, world)
        for rank in range(world):
            before = told()
            whereabouts.write()
            assert told() == before
            whereabouts.enter(rank, place | {"pid": 100 + rank})
        whereabouts.write()
        found = told()
        assert found is not None
        assert found["generation"] == generation
        assert [each["pid"] for each in found["ranks"]] == list(range(100, 100 + world))
    whereabouts.remove()
    assert told() is None


def test_ranks_are_read_as_they_are_written() -> None:
    assert answers.ranks_text([5, 0, 1, 2]) == "0-2,5"
    assert answers.parse_ranks("0-2, 5,1", 8) == [0, 1, 2, 5]
    for wrong in ("", "a", "3-1", "8", "0-", "-1", "0-99999999999999"):
        with pytest.raises(_core.InvalidError, match="--ranks"):
            answers.parse_ranks(wrong, 8)
    assert answers.collapsed({2: "b", 0: "a\nc\n", 1: "a\nc\n", 3: ""}) == ["[0-1] a", "[0-1] c", "[2] b"]


def test_the_package_offers_connect_without_importing_ray() -> None:
    code = (
        "import sys, eagleray; eagleray.connect; eagleray.shell.here; assert not {'ray', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=clean() | {"PYTHONPATH": str(PYTHON)})
