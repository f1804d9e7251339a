"""Kernels that want a false figure: how each kind fares through the real worker, and in a process of its own."""

import pytest

from attnbench.selftest.cheated import GAINS, NO_GAIN, Finding, findings, kinds

KINDS = {kind.name: kind for kind in kinds()}
# Those that need a process of their own; README and docs/explanation/untrusted.md name them.
GAIN_WHERE_TRUSTED = {"call_stack", "forged_record"}
SHORT = ("kept_by_content", "kept_by_address", "in_preparation", "lazy_output", "other_thread", "judged_rows_only")


def fared(names, untrusted):
    found = list(findings([KINDS[name] for name in names], untrusted))
    assert found, "none was judged"
    return [(each.backend, each.outcome, each.reason) for each in found if not each.expected(untrusted)]


def test_every_kind_says_how_it_fares_and_names_what_it_is():
    assert len(KINDS) == 21
    assert {name for name, kind in KINDS.items() if kind.trusted == GAINS} == GAIN_WHERE_TRUSTED
    for kind in KINDS.values():
        assert kind.about.endswith(".") and kind.trusted in ("incorrect", "contract", "no gain", "gains", "told")


def test_what_counts_as_expected():
    kind = KINDS["other_thread"]
    assert Finding(kind, "other_thread", "incorrect", "", None).expected(False)
    assert not Finding(kind, "other_thread", GAINS, "", 0.1).expected(False)
    assert not Finding(kind, "other_thread", GAINS, "", 0.1).expected(True)
    assert Finding(kind, "other_thread", "crash", "", None).expected(True)
    assert not Finding(kind, "joined_thread", "incorrect", "", None).expected(True)
    assert Finding(kind, "joined_thread", NO_GAIN, "", 1.0).expected(True)


def test_kinds_that_leave_others_alone():
    assert fared(SHORT, untrusted=False) == []


def test_a_replaced_judge():
    assert fared(["replaced_judge"], untrusted=False) == []


@pytest.mark.full
@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_kind(name, untrusted):
    assert fared([name], untrusted) == []


def test_a_cheat_in_a_process_of_its_own():
    assert fared(["call_stack"], untrusted=True) == []
