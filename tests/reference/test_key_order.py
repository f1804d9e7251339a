"""Keys and values moved together: the oracle's answer stays, in every scaling, and the inputs come back whole."""

import pytest
import torch

from attnbench.case import Case
from attnbench.reference.inputs import checksums, copy_inputs, make_inputs
from attnbench.reference.key_order import keys_may_move, move_keys
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem

SHAPE = {"batch": 2, "seqlen_q": 5, "seqlen_k": 70, "num_heads": 4, "num_heads_kv": 2, "head_dim": 32}


@pytest.mark.parametrize("scaling", ["none", "tensor", "head", "token"])
@pytest.mark.parametrize("dtype", ["bf16", "e4m3"])
def test_the_answer_stays_and_the_keys_do_not(dtype, scaling):
    case = Case.make(**SHAPE, dtype=dtype, **({"scaling": scaling} if dtype == "e4m3" else {}))
    assert keys_may_move(case)
    inputs, rows = make_inputs(case), choose_rows(case, "full", "cpu")
    before, moved = oracle(case, inputs, rows), copy_inputs(inputs)
    move_keys(case, moved, 7)
    after = oracle(case, moved, rows)
    torch.testing.assert_close(after.out, before.out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.lse, before.lse, rtol=1e-12, atol=1e-12)
    assert not torch.equal(moved.k, inputs.k) and torch.equal(moved.q, inputs.q)
    again = copy_inputs(inputs)
    move_keys(case, again, 7)
    assert checksums(again) == checksums(moved)


def test_a_mask_and_scales_of_blocks_forbid_it():
    assert not keys_may_move(Case.make(**SHAPE, causal=True))
    assert not keys_may_move(Case.make(**SHAPE, dtype="e4m3", scaling="block", block_size=32))
    assert keys_may_move(Case.make(**{**SHAPE, "seqlen_q": 1}, causal=True))


def test_fresh_inputs_are_posed_with_their_keys_in_a_secret_order():
    case = Case.make(**SHAPE)
    orders = []
    for seed in (1, 1, 2):
        problem = Problem(case, "cpu", Checks(), Timing(), 0, Phases(), seed=seed)
        inputs = problem.reference.inputs
        before = checksums(inputs)
        with problem.fresh_in_place(inputs) as given:
            orders.append(checksums(given))
            assert given.k.sum().item() == pytest.approx(problem.fresh.inputs.k.sum().item(), abs=1.0)
        assert checksums(inputs) == before
    assert orders[0] == orders[1] != orders[2]
