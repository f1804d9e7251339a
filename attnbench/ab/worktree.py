"""Revisions of a git repository as folders of their own, for a while. The user's checkout is never touched."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.errors import UserError
from attnbench.printable import printable
from attnbench.redaction import redacted, redacted_command

# Lines of what a failed build printed that are shown.
TAIL_LINES = 12
# A REF that stands for the checkout as it is, uncommitted changes of tracked files included.
CHECKOUT = "."

# Folders of worktrees are named for the process that made them: one that is gone left them behind.
_PREFIX = "attnbench-ab-"
_MADE_BY = re.compile(rf"{_PREFIX}(\d+)-\w+$")
# Variables by which git would work in another repository than the folder's; a hook that runs this sets them.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


class GitError(UserError):
    """What git cannot do; the message names it and the way out."""


class BuildFailed(Exception):
    """The build of a revision failed; the message has the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One side. ref: as the user wrote it; commit: the full hash; tree: of the files, whenever they were committed."""

    name: str
    ref: str
    commit: str
    tree: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.ref}, {self.commit[:10]})"


class Repository:
    """The git repository that a folder is in. Raises GitError where it is in none."""

    def __init__(self, folder: Path):
        try:
            self.top = Path(_git(folder, "rev-parse", "--show-toplevel")).resolve()
        except GitError:
            message = f"{folder} is in no git repository; go into the one whose revisions are to be compared"
            raise GitError(message) from None
        self.inside = folder.resolve().relative_to(self.top)

    def revision(self, name: str, ref: str) -> Revision:
        """Raises GitError for a REF that names no commit."""
        if ref == CHECKOUT:
            made = _git(self.top, "stash", "create")  # a commit of the tracked files as they are; changes nothing
            commit = made or _git(self.top, "rev-parse", "HEAD")
        else:
            try:
                commit = _git(self.top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
            except GitError:
                raise GitError(f"--{name} {ref}: no such commit, branch or tag in {self.top}") from None
        return Revision(name, ref, commit, _git(self.top, "rev-parse", f"{commit}^{{tree}}"))

    def changed(self) -> int:
        """How many files of the checkout differ from its last commit, files that git does not know included."""
        return len(_git(self.top, "status", "--porcelain").splitlines())


@contextlib.contextmanager
def worktrees(repository: Repository, revisions: Sequence[Revision]) -> Iterator[list[Path]]:
    """A folder with each revision checked out, detached; all gone afterwards, however it ends. Raises GitError."""
    _sweep(repository)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        places = [Path(folder).resolve() / revision.name for revision in revisions]
        try:
            for revision, place in zip(revisions, places):
                _git(repository.top, "worktree", "add", "--detach", "--quiet", str(place), revision.commit)
            yield places
        finally:
            with _uninterrupted():
                for place in places:
                    _quietly(repository.top, "worktree", "remove", "--force", "--force", str(place))


def _sweep(repository: Repository) -> None:
    """Removes what a comparison that was killed left behind."""
    for line in _git(repository.top, "worktree", "list", "--porcelain").splitlines():
        place = Path(line.removeprefix("worktree "))
        made_by = _MADE_BY.match(place.parent.name)
        if made_by and place.parent.parent == Path(tempfile.gettempdir()).resolve() and not _runs(int(made_by[1])):
            _quietly(repository.top, "worktree", "remove", "--force", "--force", str(place))
            shutil.rmtree(place.parent, ignore_errors=True)


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def build(command: str, revision: Revision, folder: Path, environment: dict[str, str]) -> None:
    """Runs a shell command in a revision's folder. Raises BuildFailed with the end of its output."""
    if not folder.is_dir():
        raise BuildFailed(f"{revision} has no folder {folder.name} to build in")
    process = subprocess.Popen(
        command, shell=True, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        tail = redacted(printable("\n".join(printed.strip().splitlines()[-TAIL_LINES:])))
        what = f"--build failed in {revision} with status {process.returncode}: {redacted_command(command)}"
        raise BuildFailed(f"{what}\n{tail}".rstrip())


def _git(folder: Path, *arguments: str) -> str:
    """What git prints. In a session of its own: Ctrl-C is for this program to handle. Raises GitError.

    NOTE: without the user's hooks, which may do anything after a checkout.
    """
    environment = {name: value for name, value in os.environ.items() if name not in GIT_PLACES}
    try:
        done = subprocess.run(
            ["git", "-c", "core.hooksPath=/dev/null", *arguments], cwd=folder, env=environment, capture_output=True,
            text=True, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise GitError("there is no git on this machine; install it") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise GitError(f"git {arguments[0]} failed: {last}")
    return done.stdout.strip()


def _quietly(folder: Path, *arguments: str) -> None:
    with contextlib.suppress(GitError):  # it was never added; its folder goes with the temporary one
        _git(folder, *arguments)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not end the tidying up after the first."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
