"""Small Triton kernels, an operation or a way of control flow each; imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def parting(X, Y, size, BLOCK: tl.constexpr):
    """Programs return early, loop for another time, take other branches, and meet again."""
    program = tl.program_id(0)
    at = program * BLOCK + tl.arange(0, BLOCK)
    if program == 3:
        return
    x = tl.load(X + at, mask=at < size, other=0.0)
    steps = 0
    for step in range(program % 4, 2 * program):
        x += step
        if step % 3 == program % 3:
            x = x * 2
            steps += 1
        elif step > 4:
            x = x - 1
    left = program
    while left > 1:
        left = left // 2
        x += left
    tl.store(Y + at, x + steps, mask=at < size)


@triton.jit
def reductions(X, Whole, Sum, Top, Where, Low, Prefix, Back, Sorted, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    x = tl.load(X + rows[:, None] * COLUMNS + columns[None, :])
    tl.store(Sum + rows, tl.sum(x, 1))
    tl.store(Top + columns, tl.max(x, 0))
    tl.store(Where + rows, tl.argmax(x, 1))
    tl.store(Low + rows, tl.min(x, 1))
    at = rows[:, None] * COLUMNS + columns[None, :]
    tl.store(Prefix + at, tl.cumsum(x, 1))
    tl.store(Back + at, tl.cumsum(x, 0, reverse=True))
    tl.store(Sorted + at, tl.sort(x, dim=1))
    tl.store(Whole + rows, tl.xor_sum(tl.load(Whole + at), 1))


@triton.jit
def shapes(X, Y, Z, J, SIZE: tl.constexpr):
    rows = tl.arange(0, SIZE)
    x = tl.load(X + rows[:, None] * SIZE + rows[None, :])
    flat = tl.reshape(tl.trans(x), [SIZE * SIZE])
    tl.store(Y + tl.arange(0, SIZE * SIZE), flat)
    both = tl.join(x, -x)
    tl.store(J + rows[:, None, None] * 2 * SIZE + rows[None, :, None] * 2 + tl.arange(0, 2)[None, None, :], both)
    first, second = tl.split(both)
    picked = tl.gather(first + second * 2, tl.broadcast_to((SIZE - 1 - rows)[:, None], [SIZE, SIZE]), axis=0)
    tl.store(Z + rows[:, None] * SIZE + rows[None, :], picked)


@triton.jit
def integers(A, B, Out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    a, b = tl.load(A + at), tl.load(B + at)
    tl.store(Out + at, a // b)
    tl.store(Out + SIZE + at, a % b)
    tl.store(Out + 2 * SIZE + at, (a ^ b) & (a | 3))
    tl.store(Out + 3 * SIZE + at, (a >> 2) + (b << 3))
    tl.store(Out + 4 * SIZE + at, tl.minimum(a, b) - tl.maximum(a, -b))
    unsigned = a.to(tl.uint32, bitcast=True)
    tl.store(Out + 5 * SIZE + at, (unsigned // 7).to(tl.int32, bitcast=True))
    tl.store(Out + 6 * SIZE + at, (unsigned >> 5).to(tl.int32, bitcast=True))
    tl.store(Out + 7 * SIZE + at, tl.umulhi(unsigned, b.to(tl.uint32, bitcast=True)).to(tl.int32, bitcast=True))
    tl.store(Out + 8 * SIZE + at, (unsigned > 5).to(tl.int32) + a.to(tl.int8).to(tl.int32))


@triton.jit
def products(A, B, C, D, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a, b = tl.load(A + m[:, None] * K + k[None, :]), tl.load(B + k[:, None] * N + n[None, :])
    tl.store(C + m[:, None] * N + n[None, :], tl.dot(a, b, input_precision=PRECISION))
    tl.store(D + m[:, None] * N + n[None, :], tl.dot(a, b, tl.full([M, N], 1, tl.float32), input_precision=PRECISION))


@triton.jit
def whole_products(A, B, C, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    place = at[:, None] * SIZE + at[None, :]
    tl.store(C + place, tl.dot(tl.load(A + place), tl.load(B + place)))


@triton.jit
def counters(Count, Tickets, Floats, Top, Lock, SIZE: tl.constexpr):
    program = tl.program_id(0)
    tl.atomic_add(Floats + tl.arange(0, SIZE) % 2, program * 1.0)
    tl.atomic_max(Top, program)
    ticket = tl.atomic_add(Count, 1)
    tl.store(Tickets + ticket, program)
    tl.atomic_cas(Lock, 0, program + 1)


@triton.jit
def described(X, Y, rows, columns, FROM: tl.constexpr, BLOCK: tl.constexpr):
    source = tl.make_tensor_descriptor(X, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    target = tl.make_tensor_descriptor(Y, [rows, columns], [columns, 1], [BLOCK, BLOCK])
    at = tl.program_id(0) * BLOCK
    target.store([at, 0], source.load([at, FROM]) + 1.0)


@triton.jit
def elementary(X, Y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x = tl.load(X + at)
    tl.store(Y + at, tl.exp(x) + tl.exp2(x) + tl.log(tl.abs(x) + 1) + tl.sqrt(tl.abs(x)) + tl.sin(x) * tl.cos(x))
    tl.store(Y + SIZE + at, libdevice.tanh(x) + tl.math.erf(x) + tl.floor(x) + tl.ceil(x) + tl.sigmoid(x))
    tl.store(Y + 2 * SIZE + at, tl.where((x > 0) & (x < 1), tl.clamp(x, -0.5, 0.5), x / 3) + tl.fma(x, x, x))


@triton.jit
def mixed(X, Y, Z, scale, SIZE: tl.constexpr):
    """A float argument is fp32, as in compiled code: fp16 times it is fp32."""
    at = tl.arange(0, SIZE)
    x = tl.load(X + at)
    tl.store(Y + at, x * scale)
    tl.store(Z + at, x * x + x)


@triton.jit
def meeting(Y, Z, SAME: tl.constexpr):
    """All programs store at one place."""
    value = 5 if SAME else tl.program_id(0)
    tl.store(Y, value)
    tl.store(Z + tl.program_id(0), value)


@triton.jit
def inline(X, Y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    y = tl.inline_asm_elementwise("not.b32 $0, $1;", "=r,r", [tl.load(X + at)], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(Y + at, y)


@triton.jit
def neighbours(X, BLOCK: tl.constexpr):
    """Each program stores its own block, and all but the first load the one before."""
    program = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    x = tl.load(X + tl.maximum(program - 1, 0) * BLOCK + at)
    tl.store(X + program * BLOCK + at, x + 1)
