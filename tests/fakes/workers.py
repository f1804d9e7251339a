"""Worker processes whose plugin acts while it is imported, before torch is: they live for a moment only."""

from attnbench.run.process import WorkerProcess

READY_BY_HAND = """
import json, os, subprocess, sys, time
events = int(sys.argv[2])
def tell(**event):
    os.write(events, (json.dumps(event) + "\\n").encode())
tell(type="Ready", facts={}, backends={})
"""


def workers_in(folder):
    """For a fixture: what starts a worker whose plugin does this at import; each is ended after the test."""
    started = []

    def start(text):
        path = folder / f"plugin{len(started)}.py"
        path.write_text(text)
        started.append(WorkerProcess("cpu", [f"{path}:f"]))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
