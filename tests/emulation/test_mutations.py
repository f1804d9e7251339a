"""Every wait, fence, arrive, parity, count and descriptor of every kernel file is needed, and missed.

`make test` breaks every call site in one way, the ways in turn; the marker `full` in every way. Prints the kill rate.
Fails for a survivor that benign_mutations.yaml does not explain, and for an entry there that no longer survives.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from mutation import (
    Benign,
    CallSite,
    Mutation,
    Result,
    Subject,
    candidates,
    judge,
    load_benign,
    mutations,
    passed_sites,
    plans,
)
from parallel import build_each, run_parallel
from tabulate import tabulate

from attnbench.hopper.toolchain import KERNELS

SOURCES = sorted(KERNELS.glob("fwd_*.cu"))


@pytest.fixture(scope="module")
def passed() -> dict[Subject, frozenset[CallSite]]:
    """The call sites of every variant."""
    build_each(SOURCES)
    subjects = [subject for source in SOURCES for subject in candidates(source)]
    return dict(zip(subjects, run_parallel(passed_sites, subjects)))


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.full)], ids=["one_each", "all"])
def every_way(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def results(passed: dict[Subject, frozenset[CallSite]], every_way: bool) -> list[Result]:
    per_source = [{one: sites for one, sites in passed.items() if one.source == source} for source in SOURCES]
    per_plan = run_parallel(mutations, [plan for own in per_source for plan in plans(own)], chunk=1)
    if every_way:
        return run_parallel(judge, [mutation for found in per_plan for mutation in found])
    sites = [list(ways) for found in per_plan for _, ways in itertools.groupby(found, lambda one: one.site)]
    return list(itertools.chain(*run_parallel(judge_first, in_turn(sites))))


def in_turn(sites: list[list[Mutation]]) -> list[list[Mutation]]:
    """The ways to break each site, so that at every next site of a primitive another one comes first."""
    seen: Counter[str] = Counter()
    turned = []
    for ways in sites:
        turn = seen[ways[0].primitive] % len(ways)
        seen[ways[0].primitive] += 1
        turned.append(ways[turn:] + ways[:turn])
    return turned


def judge_first(ways: list[Mutation]) -> list[Result]:
    """Of several ways to break one call site, up to the first that changes any call."""
    results = []
    for mutation in ways:
        results.append(judge(mutation))
        if results[-1].applied:
            break
    return results


def verdicts(results: list[Result], benign: list[Benign]) -> dict[str, list[Result]]:
    """Applied mutations by verdict: killed, explained, survived; and `stale`: killed although called benign."""
    sorted_out: dict[str, list[Result]] = {"killed": [], "explained": [], "survived": [], "stale": []}
    for result in results:
        if not result.applied:
            continue
        explained = any(entry.covers(result.mutation) for entry in benign)
        if result.killed_by:
            sorted_out["stale" if explained else "killed"].append(result)
        else:
            sorted_out["explained" if explained else "survived"].append(result)
    return sorted_out


def kill_rates(results: list[Result], benign: list[Benign]) -> str:
    rows = []
    for name in sorted({str(result.mutation.subject) for result in results}):
        own = verdicts([result for result in results if str(result.mutation.subject) == name], benign)
        killed = len(own["killed"]) + len(own["stale"])
        harmful = killed + len(own["survived"])
        by = Counter(result.killed_by for result in own["killed"])
        rows.append((name, harmful, killed, f"{killed / harmful:.1%}" if harmful else "none", len(own["explained"]),
                     ", ".join(f"{kind} {count}" for kind, count in by.most_common(4))))  # fmt: skip
    return tabulate(rows, ("kernel", "harmful", "killed", "rate", "benign", "killed by"))


def test_every_harmful_mutation_is_killed(
    results: list[Result], record_property: Callable[[str, object], None]
) -> None:
    benign = load_benign()
    record_property("summary", kill_rates(results, benign))
    found = verdicts(results, benign)
    assert found["killed"]
    survivors = [f"{r.mutation.subject}: {r.mutation}" for r in found["survived"]]
    assert not survivors, f"{len(survivors)} mutations survive unexplained\n" + "\n".join(survivors)


def test_no_benign_entry_is_stale(results: list[Result], every_way: bool) -> None:
    benign = load_benign()
    stale = [f"killed by {r.killed_by}: {r.mutation}" for r in verdicts(results, benign)["stale"]]
    assert not stale, "called benign, but noticed\n" + "\n".join(stale)
    if not every_way:
        return
    survivors = [result.mutation for result in results if result.applied and not result.killed_by]
    unused = [entry for entry in benign if not any(entry.covers(mutation) for mutation in survivors)]
    assert not unused, f"cover nothing: {unused}"


def test_every_call_site_of_every_variant_is_broken(
    passed: dict[Subject, frozenset[CallSite]], results: list[Result]
) -> None:
    there = {(subject.source, *site) for subject, sites in passed.items() for site in sites}
    broken = {(r.mutation.subject.source, r.mutation.primitive, r.mutation.place) for r in results if r.applied}
    assert len(there) > 200
    assert broken == there
    kinds = {result.mutation.kind for result in results if result.applied}
    assert {"drop", "flip_parity", "less", "more", "laxer", "early", "twice", "b_step", "a_start"} <= kinds
