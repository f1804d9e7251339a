"""The worker process from its parent's side: how it starts, refuses, dies, hangs, and what is learnt of each.

Plugins act while they are imported, before torch is: so these processes live for a moment only.
"""

import os
import re
import signal
import subprocess
import time

import pytest
from fakes.workers import READY_BY_HAND, workers_in

import attnbench
from attnbench.messages import PhaseBegun, Poisoned, Ready, ReleaseBackend, TakeSentinel
from attnbench.run.process import WorkerDied, WorkerRefused, WorkerSilent, WorkerStuck
from attnbench.stacks import is_compiling, places


@pytest.fixture
def worker_that(tmp_path):
    yield from workers_in(tmp_path)


def died(worker):
    with pytest.raises(WorkerDied) as caught:
        worker.start()
    assert "\n" not in caught.value.brief
    return caught.value


def test_what_a_plugin_does_not_import_for_is_refused(worker_that):
    with pytest.raises(WorkerRefused, match="does not import: ZeroDivisionError: division by zero .plugin0.py:1."):
        worker_that("1 / 0").start()


def test_without_torch_it_says_how_to_get_it(worker_that):
    with pytest.raises(WorkerRefused, match='^torch does not import .*; get it with: pip install "torch>=2.9"$'):
        worker_that("import sys; sys.modules['torch'] = None\ndef f(q, k, v, *, causal, softmax_scale): ...").start()


def test_an_exit_tells_its_status_and_last_words(worker_that):
    death = died(worker_that("import os; print('first'); print('last words'); os._exit(5)"))
    assert str(death) == "the worker process exited with status 5; its last output: first\nlast words"
    assert death.brief == "the worker process exited with status 5: last words"
    assert death.kind == "crash"


def test_a_long_output_is_cut_between_two_lines(worker_that):
    death = died(worker_that("import os\nfor n in range(2000): print(f'line {n}')\nos._exit(5)"))
    first, *_, last = str(death).partition("last output: ")[2].splitlines()
    assert re.fullmatch(r"line 1\d\d\d", first) and last == "line 1999"


def test_a_segmentation_fault_tells_where(worker_that):
    death = died(worker_that("import ctypes\nctypes.string_at(0)"))
    assert death.brief.startswith("the worker process was killed by SIGSEGV: Fatal Python error: Segmentation fault <")
    assert 'File "plugin0.py", line 2' in death.brief
    assert death.brief.count("/") == 0, "no path of this machine"


SLEEPS = """
import time
def mine():
    time.sleep(60)
mine()
"""
COMPILES = """
text = "def run():\\n  import time; time.sleep(60)\\nrun()"
exec(compile(text, "/site-packages/torch/_inductor/graph.py", "exec"))
"""


@pytest.mark.parametrize(
    ("does", "compiling", "at"),
    [(SLEEPS, False, r"plugin0.py:\d+ mine < plugin0.py:\d+ <module>"), (COMPILES, True, r"graph.py:2 run < graph.py")],
)
def test_a_silent_worker_tells_where_it_is(worker_that, does, compiling, at):
    worker = worker_that(READY_BY_HAND + does)
    worker.start()
    time.sleep(0.2)
    for _ in range(2):
        stacks = worker.stacks()
        assert is_compiling(stacks) is compiling
        assert re.match(at, places(stacks)), stacks
    with pytest.raises(WorkerSilent):
        worker.next_event(0.1)


def test_a_worker_that_cannot_tell_where_it_is_says_nothing(worker_that):
    worker = worker_that(READY_BY_HAND + "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
                         + SLEEPS)  # fmt: skip
    worker.start()
    time.sleep(0.2)
    assert worker.stacks() == "" and not is_compiling("") and places("") == ""


def test_new_output_is_given_once_and_none_is_lost_to_it(worker_that):
    worker = worker_that(READY_BY_HAND + "print('one')\nos._exit(3)")
    worker.start()
    with pytest.raises(WorkerDied) as caught:
        worker.next_event(60)
    assert str(caught.value).endswith("its last output: one")
    assert worker.new_output() == "one\n" and worker.new_output() == ""


def test_only_the_end_of_a_long_output_is_kept(worker_that):
    death = died(worker_that("import os; print('x' * 10**6); print('whole line\\n' * 10**4 + 'end'); os._exit(1)"))
    said = str(death).partition("its last output: ")[2]
    assert said.endswith("whole line\nend") and set(said.splitlines()[:-1]) == {"whole line"}
    assert 2000 < len(said) < 5000


def test_a_kill_is_a_crash_and_the_out_of_memory_killers_is_oom(worker_that, monkeypatch):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    death = died(worker_that(kill))
    assert (death.kind, str(death)) == ("crash", "the worker process was killed by SIGKILL")
    kills = iter((3, 4))  # at the worker's start, and at its end
    monkeypatch.setattr("attnbench.run.process.oom_kills", lambda: next(kills))
    death = died(worker_that(kill))
    assert (death.kind, str(death)) == ("oom", "killed by the kernel: out of host memory")


def test_a_death_shows_even_while_a_child_holds_the_pipes(worker_that):
    started = time.monotonic()
    death = died(worker_that("import os, time\nif os.fork() == 0:\n    time.sleep(100)\nos._exit(9)"))
    assert str(death) == "the worker process exited with status 9"
    assert time.monotonic() - started < 60


def test_one_that_closes_its_pipe_and_lives_on_is_given_up(worker_that, monkeypatch):
    monkeypatch.setattr("attnbench.run.process.EXIT_TIMEOUT_S", 0.2)
    death = died(worker_that("import os, time; os.closerange(3, 256); time.sleep(100)"))
    assert str(death) == "the worker closed the pipe that it reports through"


def test_one_that_closes_its_pipe_and_goes_on_dies_of_it(worker_that):
    assert "Bad file descriptor" in str(died(worker_that("import os; os.closerange(3, 256); 1 / 0")))


GARBAGE = ["hello", "3", '"text"', "[1]", "{", '{"type": "Nobody"}', '{"type": "Poisoned"}', '{"event": "done"}']


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_event_is_the_death_of_it(worker_that, garbage):
    text = f"import os, sys, time; os.write(int(sys.argv[2]), {(garbage + chr(10)).encode()!r}); time.sleep(100)"
    assert str(died(worker_that(text))).startswith("it wrote into the event pipe: ")


def test_events_come_one_by_one_however_they_are_cut(worker_that):
    worker = worker_that(
        READY_BY_HAND + "import time\n"
        'os.write(events, b\'{"type": "PhaseBegun", "backend": "a", \')\n'
        "time.sleep(0.1)\n"
        'os.write(events, b\'"phase": "one"}\\n{"type": "PhaseBegun", "backend": "a", "phase": "two"}\\n\')\n'
        'os.write(events, b\'{"type": "Poisoned", "reason"\')\n'
        "os.write(events, b': \"' + b'x' * 200_000 + b'\"}\\n')\n"
        "os._exit(0)"
    )
    assert worker.start() == Ready(facts={}, backends={})
    assert [worker.next_event(60) for _ in range(2)] == [PhaseBegun("a", "one"), PhaseBegun("a", "two")]
    assert worker.next_event(60) == Poisoned("x" * 200_000)
    with pytest.raises(WorkerDied, match="exited with status 0"):
        worker.next_event(60)


def test_silence_ends_after_the_time_allowed_and_not_before(worker_that):
    worker = worker_that(READY_BY_HAND + "import time; time.sleep(100)")
    worker.start()
    asked = time.monotonic()
    with pytest.raises(WorkerSilent):
        worker.next_event(0.3)
    assert 0.3 <= time.monotonic() - asked < 30


def test_half_an_event_does_not_extend_the_time(worker_that):
    worker = worker_that(READY_BY_HAND + "import time\nwhile True:\n    os.write(events, b'x')\n    time.sleep(0.05)")
    worker.start()
    asked = time.monotonic()
    with pytest.raises(WorkerSilent):
        worker.next_event(0.5)
    assert time.monotonic() - asked < 30


def test_a_job_for_a_dead_worker_is_no_error_its_death_is(worker_that):
    worker = worker_that(READY_BY_HAND + "os._exit(2)")
    worker.start()
    os.waitid(os.P_PID, worker._process.pid, os.WEXITED | os.WNOWAIT)
    worker.submit(ReleaseBackend(together=("x" * 10**5,), order_seed=0, timed=True))
    with pytest.raises(WorkerDied, match="exited with status 2"):
        worker.next_event(60)


def test_last_words_are_those_since_the_last_job(worker_that):
    worker = worker_that(
        READY_BY_HAND + "print('of an earlier job')\nos.read(int(sys.argv[1]), 10**6)\n"
        "print('of this one')\nos._exit(4)"
    )
    worker.start()
    deadline = time.monotonic() + 60
    while worker._output.seek(0, os.SEEK_END) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.submit(TakeSentinel())
    with pytest.raises(WorkerDied) as caught:
        worker.next_event(60)
    assert str(caught.value) == "the worker process exited with status 4; its last output: of this one"


def test_killing_takes_everything_that_it_started(worker_that):
    worker = worker_that(
        READY_BY_HAND + "import subprocess\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "tell(type='SentinelTaken', figures={'pid': child.pid})\nchild.wait()"
    )
    worker.start()
    child = worker.next_event(60).figures["pid"]
    os.kill(child, 0)  # it is there
    worker._process.send_signal(signal.SIGSTOP)  # whatever state the worker is in
    worker.kill()
    worker.kill = lambda: None  # the fixture need not
    deadline = time.monotonic() + 30
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def test_one_that_does_not_even_end_when_killed_is_said_to(worker_that, monkeypatch):
    """As a process that waits inside a driver."""
    worker = worker_that(READY_BY_HAND + "import time; time.sleep(100)")
    worker.start()

    def wait(timeout_s):
        raise subprocess.TimeoutExpired("worker", timeout_s)

    monkeypatch.setattr(worker._process, "wait", wait)
    with pytest.raises(WorkerStuck, match="was killed and did not end within 60 s; it waits in a driver, and nothing"):
        worker.kill()


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_reads_nothing_from_the_terminal_and_shows_its_output_to_nobody(worker_that, capfd):
    worker = worker_that(READY_BY_HAND + "print('secret')\ntell(type='Poisoned', reason=sys.stdin.read())\nos._exit(0)")
    worker.start()
    assert worker.next_event(60) == Poisoned("")
    captured = capfd.readouterr()
    assert "secret" not in captured.out + captured.err


def test_it_imports_this_attnbench_and_pins_its_threads(worker_that, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_PLACES", "threads")
    worker = worker_that(
        READY_BY_HAND + "import attnbench\n"
        "names = ('OMP_PROC_BIND', 'OMP_PLACES', 'PYTHONFAULTHANDLER')\n"
        "facts = {name: os.environ.get(name) for name in names}\n"
        "tell(type='SentinelTaken', figures={'file': attnbench.__file__, **facts})\nos._exit(0)"
    )
    worker.start()
    facts = worker.next_event(60).figures
    assert facts["file"] == attnbench.__file__
    assert facts["OMP_PLACES"] == "threads", "what the user set stays"
    assert (facts["OMP_PROC_BIND"], facts["PYTHONFAULTHANDLER"]) == ("close", "1")
