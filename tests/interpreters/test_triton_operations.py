"""Operations and control flow of Triton kernels, executed: against torch, however programs are put together."""

from __future__ import annotations

import contextlib

import pytest
import torch

kernels = pytest.importorskip("operations_triton", reason="not run: needs Triton")

from attnbench.backend import HazardError  # noqa: E402
from attnbench.interpreters.backend import Conditions  # noqa: E402
from attnbench.interpreters.triton import stand_ins  # noqa: E402
from attnbench.interpreters.triton.language import TritonLanguage  # noqa: E402
from attnbench.interpreters.triton.numbers import NotInterpreted  # noqa: E402

LANGUAGE = TritonLanguage()
SEED = torch.Generator().manual_seed(0)


@contextlib.contextmanager
def conditions(**chosen):
    interpreter = LANGUAGE.interpreter
    interpreter.forget()
    interpreter.conditions = Conditions(**chosen)
    with stand_ins.gpu(set()):
        yield interpreter
    interpreter.conditions = Conditions()


def launched(kernel, grid, *arguments, **chosen):
    with conditions(**chosen) as interpreter:
        kernel[grid](*arguments)
    return interpreter


def parted(size, block):
    """`parting`, by hand."""
    x = torch.arange(size, dtype=torch.float32)
    for program in range(-(-size // block)):
        part = x[program * block : (program + 1) * block]
        if program == 3:
            part.fill_(-1)
            continue
        steps = 0
        for step in range(program % 4, 2 * program):
            part += step
            if step % 3 == program % 3:
                part *= 2
                steps += 1
            elif step > 4:
                part -= 1
        left = program
        while left > 1:
            left //= 2
            part += left
        part += steps
    return x


@pytest.mark.parametrize("chosen", [{}, {"order": 3}, {"one_by_one": True}], ids=["together", "shuffled", "one by one"])
def test_programs_part_and_meet(chosen):
    size, block = 150, 16
    y = torch.full((size,), -1.0)
    launched(kernels.parting, (10,), torch.arange(size, dtype=torch.float32), y, size, block, **chosen)
    assert torch.equal(y, parted(size, block))


def test_reductions_and_scans():
    rows, columns = 16, 32
    x = torch.randn(rows, columns, generator=SEED)
    whole = torch.randint(0, 1000, (rows, columns), generator=SEED, dtype=torch.int32)
    expected = whole[:, 0].clone()
    for column in range(1, columns):
        expected ^= whole[:, column]
    total, top, where, low = (
        torch.empty(rows),
        torch.empty(columns),
        torch.empty(rows, dtype=torch.int32),
        torch.empty(rows),
    )
    prefix, back, ordered = (torch.empty(rows, columns) for _ in range(3))
    launched(kernels.reductions, (1,), x, whole, total, top, where, low, prefix, back, ordered, rows, columns)
    torch.testing.assert_close(total, x.sum(1))
    assert torch.equal(top, x.amax(0)) and torch.equal(where, x.argmax(1).int()) and torch.equal(low, x.amin(1))
    torch.testing.assert_close(prefix, x.cumsum(1))
    torch.testing.assert_close(back, x.flip(0).cumsum(0).flip(0))
    assert torch.equal(ordered, x.sort(1)[0])
    assert torch.equal(whole.flatten()[:rows], expected)


def test_shapes():
    size = 16
    x = torch.randn(size, size, generator=SEED)
    flat, picked, both = torch.empty(size * size), torch.empty(size, size), torch.empty(size, size, 2)
    launched(kernels.shapes, (1,), x, flat, picked, both, size)
    assert torch.equal(flat, x.t().flatten()) and torch.equal(both, torch.stack((x, -x), -1))
    assert torch.equal(picked, (x - 2 * x).flip(0))


def test_integers_with_and_without_a_sign():
    size = 64
    a = torch.randint(-(2**31), 2**31 - 1, (size,), generator=SEED, dtype=torch.int64).to(torch.int32)
    b = torch.randint(1, 1 << 20, (size,), generator=SEED, dtype=torch.int32)
    out = torch.empty(9, size, dtype=torch.int32)
    launched(kernels.integers, (1,), a, b, out, size)
    wide, unsigned = a.long(), a.long() & 0xFFFFFFFF

    def signed(x):
        return ((x + 2**31) % 2**32 - 2**31).int()

    assert torch.equal(out[0], torch.div(a, b, rounding_mode="trunc")) and torch.equal(out[1], torch.fmod(a, b))
    assert torch.equal(out[2], (a ^ b) & (a | 3))
    assert torch.equal(out[3], signed((wide >> 2) + (b.long() << 3)))
    assert torch.equal(out[4], signed(torch.minimum(a, b).long() - torch.maximum(a, -b).long()))
    assert torch.equal(out[5], signed(unsigned // 7)) and torch.equal(out[6], signed(unsigned >> 5))
    assert torch.equal(out[7], signed((unsigned * b.long()) >> 32))
    assert torch.equal(out[8], (unsigned > 5).int() + a.to(torch.int8).int())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_products_are_exact_and_sums_fp32(dtype):
    m, n, k = 32, 16, 64
    a, b = (torch.randn(shape, generator=SEED).to(dtype) for shape in ((m, k), (k, n)))
    c, d = torch.empty(m, n), torch.empty(m, n)
    interpreter = launched(kernels.products, (1,), a, b, c, d, m, n, k, "ieee")
    exact = a.double() @ b.double()
    bound = (a.double().abs() @ b.double().abs()) * k * 2.0**-24
    assert bool(((c.double() - exact).abs() <= bound).all())
    assert bool(((d.double() - exact - 1).abs() <= bound + 2.0**-23 * exact.abs() + 2.0**-23).all())
    assert interpreter.counts[0].dot_flops == 2 * 2 * m * n * k


def test_fp32_products_are_tf32_unless_asked():
    a, b = torch.full((16, 16), 1 + 2.0**-12), torch.ones(16, 16)
    for precision, value in (("tf32", 16.0), ("ieee", 16 * (1 + 2.0**-12))):
        c, d = torch.empty(16, 16), torch.empty(16, 16)
        launched(kernels.products, (1,), a, b, c, d, 16, 16, 16, precision)
        assert bool((c == value).all()) and bool((d == value + 1).all())


def test_integer_products():
    a, b = (torch.randint(-128, 128, (32, 32), generator=SEED, dtype=torch.int8) for _ in range(2))
    c = torch.empty(32, 32, dtype=torch.int32)
    launched(kernels.whole_products, (1,), a, b, c, 32)
    assert torch.equal(c, a.int() @ b.int())


def test_atomics_that_order_programs_run_one_by_one():
    programs, size = 7, 8
    count, lock, top = (torch.zeros(1, dtype=torch.int32) for _ in range(3))
    tickets, floats = torch.full((programs,), -1, dtype=torch.int32), torch.zeros(2)
    interpreter = launched(kernels.counters, (programs,), count, tickets, floats, top, lock, size, order=5)
    assert count.item() == programs and sorted(tickets.tolist()) == list(range(programs)) != tickets.tolist()
    assert floats.tolist() == [4.0 * 21, 4.0 * 21] and top.item() == programs - 1
    assert lock.item() == tickets[0].item() + 1 and interpreter.unordered == {"counters"}


def test_descriptors_give_zeros_outside_and_store_inside():
    x, y = torch.randn(20, 16, generator=SEED), torch.full((20, 16), -1.0)
    launched(kernels.described, (2,), x, y, 20, 16, 8, 16)
    assert torch.equal(y[:, :8], x[:, 8:] + 1) and bool((y[:, 8:] == 1).all())


def test_elementary_functions():
    x = torch.randn(64, generator=SEED) * 2
    y = torch.empty(3, 64)
    launched(kernels.elementary, (1,), x, y, 64)
    wide = x.double()
    first = wide.exp() + wide.exp2() + (wide.abs() + 1).log() + wide.abs().sqrt() + wide.sin() * wide.cos()
    second = wide.tanh() + wide.erf() + wide.floor() + wide.ceil() + wide.sigmoid()
    third = torch.where((wide > 0) & (wide < 1), wide.clamp(-0.5, 0.5), wide / 3) + wide * wide + wide
    for got, exact in zip(y, (first, second, third)):
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_promotion_is_the_compilers(dtype):
    x = torch.randn(64, generator=SEED).to(dtype)
    y, z = torch.empty(64), torch.empty(64)
    launched(kernels.mixed, (1,), x, y, z, 0.1, 64)
    assert torch.equal(y, x.float() * torch.tensor(0.1))
    assert torch.equal(z, (x * x + x).float())


def test_what_cannot_be_interpreted_is_named_with_its_line():
    x = torch.zeros(16, dtype=torch.int32)
    with pytest.raises(NotInterpreted, match=r"inline: tt.elementwise_inline_asm is not interpreted \(oper"):
        launched(kernels.inline, (1,), x, torch.empty_like(x), 16)


def test_an_access_outside_is_not_made():
    x = torch.zeros(16)
    with pytest.raises(HazardError, match=r"parting: a load of 16 of 16 elements lies outside every tensor"):
        launched(kernels.parting, (2,), x, torch.empty(32), 32, 16)


@pytest.mark.parametrize("chosen", [{}, {"order": 3}, {"one_by_one": True}], ids=["together", "shuffled", "one by one"])
def test_programs_that_store_the_same_do_not_race(chosen):
    y, z = torch.zeros(1, dtype=torch.int32), torch.zeros(6, dtype=torch.int32)
    launched(kernels.meeting, (6,), y, z, True, **chosen)
    assert y.item() == 5 and z.tolist() == [5] * 6
    with pytest.raises(HazardError, match=r"meeting: a race: program \d stores what program \d stores"):
        launched(kernels.meeting, (6,), y, z, False, **chosen)


def test_the_second_pass_has_nan_only_where_nobody_gave_a_value():
    x, y = torch.ones(40), torch.zeros(40)
    interpreter = launched(kernels.parting, (3,), x, y, 40, 16, poisoned=True)
    assert not interpreter.undefined and bool(y.isfinite().all())
