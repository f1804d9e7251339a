"""Nothing that a worker started outlives it, in whatever session, however it or its parent ends; where it imports from.

Plugins act while they are imported, before torch is: so these processes live for a moment only.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fakes.processes import children, is_alive
from fakes.workers import READY_BY_HAND, workers_in
from paths import ROOT

from attnbench.run.process import KEEPER, WorkerDied

# A child in a session of its own, and one of that child's that is an orphan already.
ESCAPE = """
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
shell = subprocess.Popen(["sh", "-c", "setsid sleep 600 & echo $!"], stdout=subprocess.PIPE, start_new_session=True)
tell(type="SentinelTaken", figures={"pids": [child.pid, int(shell.stdout.readline())]})
"""


@pytest.fixture
def worker_that(tmp_path):
    yield from workers_in(tmp_path)


def escaped(worker):
    """The processes that a worker of ESCAPE has started; each is there."""
    worker.start()
    pids = worker.next_event(60).figures["pids"]
    assert len(pids) == 2 and all(map(is_alive, pids))
    return pids


def gone(pids, within_s=20):
    until = time.monotonic() + within_s
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def test_killing_takes_children_in_sessions_of_their_own(worker_that):
    worker = worker_that(READY_BY_HAND + ESCAPE + "time.sleep(600)")
    pids = escaped(worker)
    worker.kill()
    worker.kill = lambda: None  # the fixture need not
    assert not any(map(is_alive, pids)), "once it is said to be ended, they are"


@pytest.mark.parametrize(
    "end, said",
    [
        ("os._exit(7)", "exited with status 7"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("os.killpg(0, 9)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), 4)", "killed by SIGILL: an instruction that this CPU lacks"),
    ],
)
def test_a_worker_that_dies_leaves_none_of_them(worker_that, end, said):
    worker = worker_that(READY_BY_HAND + ESCAPE + "sys.stdout.flush()\n" + end)
    worker.start()
    pids = worker.next_event(60).figures["pids"]
    with pytest.raises(WorkerDied, match=said):
        worker.next_event(60)
    assert not any(map(is_alive, pids))


def test_a_stopped_worker_is_ended_too(worker_that):
    worker = worker_that(READY_BY_HAND + ESCAPE + "os.kill(os.getpid(), 19)\ntime.sleep(600)")
    pids = escaped(worker)
    worker.kill()
    worker.kill = lambda: None
    assert not any(map(is_alive, pids))


PARENT = """
import sys, time
from attnbench.run.process import WorkerProcess
worker = WorkerProcess("cpu", [sys.argv[1]])
worker.start()
print(*worker.next_event(60).figures["pids"], flush=True)
time.sleep(600)
"""


def test_a_killed_parent_leaves_none_of_them(tmp_path):
    (tmp_path / "plugin.py").write_text(READY_BY_HAND + ESCAPE + "time.sleep(600)")
    command = [sys.executable, "-c", PARENT, str(tmp_path / "plugin.py:f")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as parent:
        pids = list(map(int, parent.stdout.readline().split()))
        keepers = children(parent.pid)
        workers = [worker for keeper in keepers for worker in children(keeper)]
        assert len(pids) == 2 and len(keepers) == 1 and workers
        parent.kill()
    assert gone([*pids, *keepers, *workers])


@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1, 0.3])
def test_a_parent_killed_while_its_worker_starts_leaves_nothing(delay_s):
    code = "import time\nfrom attnbench.run.process import WorkerProcess\nWorkerProcess('cpu', [])\ntime.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        until = time.monotonic() + 60
        while not (keepers := children(parent.pid)) and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(delay_s)
        family = [*keepers, *(worker for keeper in keepers for worker in children(keeper))]
        parent.kill()
    assert keepers and gone(family)


def test_a_keeper_whose_parent_is_gone_already_starts_no_worker():
    reading, writing = os.pipe()
    os.close(reading)  # what the parent's death does
    command = [sys.executable, "-P", KEEPER, "0", str(writing), "cpu"]
    done = subprocess.run(command, pass_fds=[writing], capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    os.close(writing)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_worker_that_is_killed_alone_ends_its_keeper_likewise(worker_that):
    worker = worker_that(READY_BY_HAND + "time.sleep(600)")
    worker.start()
    (inner,) = children(worker._process.pid)
    os.kill(inner, signal.SIGTERM)
    with pytest.raises(WorkerDied, match="killed by SIGTERM"):
        worker.next_event(60)


def test_pipes_leave_the_standard_streams_numbers_alone(tmp_path):
    """Whichever of 0, 1 and 2 the parent has closed: a worker's streams are put there."""
    (tmp_path / "plugin.py").write_text(READY_BY_HAND + "sys.stdin.read()\ntime.sleep(3)\nos._exit(3)")
    code = (
        "import os, sys\nos.closerange(0, 3)\n"
        "from attnbench.run.process import WorkerProcess, WorkerDied\n"
        "worker = WorkerProcess('cpu', [sys.argv[1]])\nworker.start()\n"
        "assert 'plugin.py' in worker.stacks(), 'the file of its stacks is none of the streams'\n"
        "try: worker.next_event(60)\n"
        "except WorkerDied as error: open(sys.argv[2], 'w').write(str(error))\n"
    )
    said = tmp_path / "said"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "plugin.py:f"), str(said)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert said.read_text() == "the worker process exited with status 3"


def test_a_worker_and_its_children_import_nothing_from_the_current_folder(worker_that, tmp_path, monkeypatch):
    here, asked = tmp_path / "here", tmp_path / "asked"
    for folder in (here, asked):
        folder.mkdir()
    monkeypatch.chdir(here)
    for name in ("json", "torch", "colorsys", "attnbench"):
        (here / f"{name}.py").write_text("open('PWNED', 'w').write(__name__)")
    (asked / "mine.py").write_text("where = 'on PYTHONPATH'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(asked), "")))  # an empty part is the current folder
    worker = worker_that(
        READY_BY_HAND + "import colorsys, mine\n"
        "code = 'import colorsys; print(colorsys.__file__)'\n"
        "child = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "files = [colorsys.__file__, child.stdout]\n"
        "tell(type='SentinelTaken', figures={'where': mine.where, 'files': files})\nos._exit(0)"
    )
    worker.start()
    figures = worker.next_event(60).figures
    assert figures["where"] == "on PYTHONPATH"
    assert all(file and str(here) not in file for file in figures["files"]) and not (here / "PWNED").exists()


def test_python_m_attnbench_looks_into_the_current_folder_last(tmp_path):
    """Of `python -m`, which puts it first: no library's name is taken there, and a checkout still runs."""
    (tmp_path / "click.py").write_text("raise ImportError('not the real one')")
    (tmp_path / "yaml.py").write_text("raise ImportError('not the real one')")
    done = subprocess.run(
        [sys.executable, "-m", "attnbench", "list", "suites"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and "quick" in done.stdout, done.stderr
    assert json.dumps(done.stderr) == '""'
