"""Which cases an interpreter gets first, and what the next one is expected to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbench.case import Case
from attnbench.messages import Ready
from attnbench.run.interpreted import CaseCost, smallest_first
from attnbench.run.runner import Request, Silent, interpreter_note
from attnbench.suite.load import load_suite


def case(seqlen):
    return Case.make(batch=1, num_heads=1, head_dim=64, seqlen_q=seqlen, seqlen_k=seqlen)


def test_cases_come_by_size():
    jobs = load_suite("quick").jobs()
    sizes = [job.case.seqlen_q * job.case.seqlen_k * job.case.num_heads for job in smallest_first(jobs)]
    assert len(sizes) == len(jobs) and sizes[0] == min(sizes) and sizes[-1] == max(sizes)


def test_what_a_case_will_take_follows_from_the_last_two_sizes():
    cost = CaseCost()
    assert cost.expected_s(case(128)) == 0.0
    cost.add(case(64), 9.0)  # the first, which compiles
    assert cost.expected_s(case(128)) == 0.0
    cost.add(case(128), 1.0)
    assert cost.expected_s(case(256)) == pytest.approx(4.0) and cost.expected_s(case(64)) == 1.0
    cost.add(case(256), 2.5)  # 0.5 s whatever the size, and 0.5 s a 128 x 128
    assert cost.expected_s(case(512)) == pytest.approx(8.5)


def test_two_sizes_that_are_close_do_not_make_a_case_dearer_than_in_proportion():
    cost = CaseCost([(0.0, 9.0)])
    cost.add(case(127), 0.5)
    cost.add(case(128), 1.0)
    assert cost.expected_s(case(256)) == pytest.approx(4.0)


def test_a_kernel_without_its_gpu_is_told_of_the_interpreter():
    def note(device="cpu", interpret="", languages=("Triton",)):
        request = Request(load_suite("quick"), device, Path("run"), Silent(), interpret=interpret)
        return interpreter_note(request, Ready({}, {}, languages=languages))

    assert note() == "plugins import Triton, whose kernels need a GPU; --interpret judges them here"
    assert note(device="cuda:0") is None and note(interpret="auto") is None and note(languages=()) is None
