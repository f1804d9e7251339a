"""Revisions in folders of their own: names, folders, builds, nothing left of them, nothing of the checkout changed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnbench.ab.worktree import BuildFailed, GitError, Repository, Revision, build, worktrees


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Two commits, `v1` and `main`, of one file in a folder; the checkout has a change of its own."""
    top = tmp_path / "repository"
    (top / "inner").mkdir(parents=True)
    git(top, "init", "--quiet", "--initial-branch", "main")
    for text in ("one", "two"):
        (top / "inner" / "kernel.py").write_text(text)
        git(top, "add", ".")
        git(top, "commit", "--quiet", "-m", text)
        git(top, "tag", f"v{'1' if text == 'one' else '2'}")
    (top / "inner" / "kernel.py").write_text("changed")
    return top


def test_refs_become_commits_wherever_in_the_repository_one_is(repository):
    inside = Repository(repository / "inner")
    assert (inside.top, inside.inside) == (repository.resolve(), Path("inner"))
    one, two = inside.revision("base", "v1"), inside.revision("head", "main")
    assert one.commit == git(repository, "rev-parse", "v1") and two.commit == git(repository, "rev-parse", "HEAD")
    assert str(one) == f"base (v1, {one.commit[:10]})"
    assert inside.changed() == 1


@pytest.mark.parametrize("ref", ["nowhere", "v1:inner/kernel.py", "--help", "", "HEAD~7"])
def test_a_ref_that_is_no_commit_is_named(repository, ref):
    with pytest.raises(GitError, match=f"^--head {ref}: no such commit, branch or tag in "):
        Repository(repository).revision("head", ref)


def test_no_repository_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(GitError, match="is in no git repository; go into the one whose revisions"):
        Repository(tmp_path)


def test_both_revisions_lie_in_folders_until_the_end_and_the_checkout_stays_as_it_is(repository):
    known = Repository(repository)
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")
    (repository / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\ntouch ran\nexit 1\n")
    (repository / ".git" / "hooks" / "post-checkout").chmod(0o755)
    with worktrees(known, [known.revision("base", "v1"), known.revision("head", "v2")]) as places:
        assert [(place / "inner" / "kernel.py").read_text() for place in places] == ["one", "two"]
        assert not any(place.is_relative_to(repository) for place in places)
        assert not any((place / "ran").exists() for place in places), "the user's hooks have no part in this"
        (places[0] / "made by a build").write_text("x")
    assert not any(place.parent.exists() for place in places)
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")) == before
    assert (repository / "inner" / "kernel.py").read_text() == "changed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_however_it_ends(repository, error):
    known = Repository(repository)
    with pytest.raises(error), worktrees(known, [known.revision("base", "v1")]) as places:
        raise error
    assert not places[0].parent.exists() and len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_second_revision_that_cannot_be_checked_out_takes_the_first_one_with_it(repository):
    known = Repository(repository)
    nobody = Revision("head", "x", "1" * 40)
    with (
        pytest.raises(GitError, match="^git worktree failed: "),
        worktrees(known, [known.revision("base", "v1"), nobody]),
    ):
        raise AssertionError("never")
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_what_a_killed_comparison_left_is_removed_by_the_next(repository):
    known = Repository(repository)
    program = (
        "import os, signal, sys; from pathlib import Path; from attnbench.ab.worktree import Repository, worktrees\n"
        f"known = Repository(Path({str(repository)!r}))\n"
        "with worktrees(known, [known.revision('base', 'v1')]) as (place,):\n"
        "    print(place, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    left = Path(killed.stdout.strip())
    assert left.is_dir() and len(git(repository, "worktree", "list").splitlines()) == 2
    with worktrees(known, [known.revision("base", "v1")]) as (first,):
        assert not left.parent.exists() and len(git(repository, "worktree", "list").splitlines()) == 2
        with worktrees(known, [known.revision("base", "v1")]):
            assert first.is_dir(), "one that runs is left alone"
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_dot_is_the_checkout_with_its_changes_and_changes_nothing(repository):
    known = Repository(repository)
    before = git(repository, "status", "--porcelain"), git(repository, "stash", "list")
    with worktrees(known, [known.revision("head", ".")]) as (place,):
        assert (place / "inner" / "kernel.py").read_text() == "changed"
    assert (git(repository, "status", "--porcelain"), git(repository, "stash", "list")) == before
    git(repository, "checkout", "--quiet", ".")
    assert known.revision("head", ".").commit == git(repository, "rev-parse", "HEAD"), "clean: the last commit"


REVISION = Revision("base", "v1", "abcdef0123456789")


def test_a_build_runs_in_the_folder_with_its_environment(tmp_path):
    build('test "$PLACE" = here && echo built > out', REVISION, tmp_path, {**os.environ, "PLACE": "here"})
    assert (tmp_path / "out").read_text() == "built\n"


def test_a_build_that_fails_shows_the_end_of_what_it_printed(tmp_path):
    with pytest.raises(BuildFailed) as caught:
        build("seq 100; echo no rule >&2; exit 7", REVISION, tmp_path, dict(os.environ))
    first, *rest = str(caught.value).splitlines()
    assert first == "--build failed in base (v1, abcdef0123) with status 7: seq 100; echo no rule >&2; exit 7"
    assert rest == [*map(str, range(90, 101)), "no rule"]
    with pytest.raises(BuildFailed, match="has no folder inner to build in"):
        build("true", REVISION, tmp_path / "inner", {})


def test_a_build_that_is_interrupted_takes_its_children_along(tmp_path, monkeypatch):
    def interrupted(self, *arguments, **options):
        until = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert time.monotonic() < until
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build("sleep 100 & echo $! > pid; wait", REVISION, tmp_path, dict(os.environ))
    stat = Path(f"/proc/{int((tmp_path / 'pid').read_text())}/stat")
    until = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
