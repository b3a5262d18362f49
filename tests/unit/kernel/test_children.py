"""Whatever a job does to its process, the caller gets a verdict, and nothing is left running."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from esper.kernel.children import Children, Job, Outcome

JOBS = Path(__file__).resolve().parents[2] / "support"


@pytest.fixture(scope="module")
def server() -> Iterator[Children]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(JOBS), before]))
    try:
        with Children() as made:
            assert made.run(job("answer")).ending == "done"
            yield made
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def job(name: str, /, timeout: float = 20.0, **arguments: object) -> Job:
    return Job(f"jobs:{name}", arguments, timeout)


def test_an_answer_comes_back(server: Children) -> None:
    outcome = server.run(job("answer", number=4))
    assert outcome.ending == "done"
    assert outcome.answer["number"] == 4
    assert outcome.answer["module"] != os.getpid()


def test_an_exception_is_a_verdict_with_its_text(server: Children) -> None:
    outcome = server.run(job("fail"))
    assert (outcome.ending, outcome.cause) == ("failed", "ValueError: no such thing")
    assert "Traceback" in outcome.errors


def test_a_crash_is_a_verdict(server: Children) -> None:
    outcome = server.run(job("crash"))
    assert outcome.ending == "crashed"
    assert "SIGSEGV" in outcome.cause


def test_an_exit_without_an_answer_is_a_crash(server: Children) -> None:
    outcome = server.run(job("leave", status=3))
    assert outcome.ending == "crashed"
    assert "status 3" in outcome.cause


def test_being_killed_from_outside_is_read_as_want_of_memory(server: Children) -> None:
    assert server.run(job("kill_itself")).ending == "memory"


def test_memory_is_limited(server: Children) -> None:
    outcome = server.run(Job("jobs:eat", {"megabytes": 3000}, 20.0, memory_bytes=1 << 30))
    assert outcome.ending == "memory"
    assert "1024 MiB" in outcome.cause


def test_files_are_limited(server: Children) -> None:
    outcome = server.run(Job("jobs:write", {"megabytes": 8}, 20.0, file_bytes=1 << 20))
    assert outcome.ending in ("failed", "crashed")
    assert "SIGXFSZ" in outcome.cause or "File too large" in outcome.cause


def test_time_is_limited_and_what_it_started_ends_with_it(server: Children, tmp_path: Path) -> None:
    outcome = server.run(job("sleep_with_a_child", timeout=1.0, note=str(tmp_path / "pid")))
    assert outcome.ending == "timeout"
    assert "1 s" in outcome.cause
    grandchild = int((tmp_path / "pid").read_text())
    _gone(grandchild)


def test_an_answer_without_end_is_cut_off(server: Children) -> None:
    outcome = server.run(job("flood"))
    assert outcome.ending == "failed"
    assert "too large" in outcome.cause


def test_there_is_no_network(server: Children) -> None:
    answer = server.run(job("connect")).answer
    if answer["confined"]["network"] != "on":
        pytest.skip(f"this system does not let a process leave its network: {answer['confined']['network']}")
    assert answer["reached"] is False
    assert answer["interfaces"] in ([], ["lo"])


def test_secrets_do_not_reach_it_and_its_directory_is_its_own(
    server: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = server.run(job("look_around")).answer
    assert answer["nice"] == 19
    assert answer["cwd"] not in (os.getcwd(), "/")
    assert not Path(answer["cwd"]).exists()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with Children() as other:
        assert "AWS_SECRET_ACCESS_KEY" not in other.run(job("look_around")).answer["environment"]


def test_what_a_job_needs_is_imported_once_for_all(server: Children) -> None:
    needing = Job("jobs:imported", {"name": "wave"}, 20.0, needs=("wave", "there.is.no.such.module"))
    assert server.run(job("imported", name="wave")).answer == {"before": False}
    assert server.run(needing).answer == {"before": True}
    assert server.run(job("imported", name="wave")).answer == {"before": True}


def test_several_threads_get_their_own_answers(server: Children) -> None:
    found: dict[int, Outcome] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: server.run(job("answer", number=i))})) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: outcome.answer["number"] for i, outcome in found.items()} == {i: i for i in range(6)}


def test_a_killed_server_is_started_again(server: Children) -> None:
    first = server.run(job("answer", number=1)).answer["parent"]
    zygote = psutil.Process(first).ppid() if psutil.pid_exists(first) else None
    running = servers()
    assert running, zygote
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.wait(5)
    assert server.run(job("answer", number=2)).answer["number"] == 2


def test_closing_ends_a_job_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    others = servers()
    children = Children()
    note, found = tmp_path / "pid", []
    thread = threading.Thread(
        target=lambda: found.append(children.run(job("sleep_with_a_child", timeout=60.0, note=str(note))))
    )
    thread.start()
    _until(note.exists)
    began = time.monotonic()
    children.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began < 10
    assert found[0].ending != "done"
    _gone(int(note.read_text()))
    assert servers() == others


def servers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "esper.kernel.zygote" in " ".join(p.cmdline())]


def _until(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _gone(pid: int) -> None:
    _until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)
