"""Planted bugs of what comes out: spoiled outputs and lse, broken contracts, calls that depend on earlier ones."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Call, Inputs, Outputs
from attnbench.case import Case
from attnbench.selftest.forward import Choices, Planted, Running, TiledForward

if TYPE_CHECKING:
    from torch import Tensor


# A kernel that does not wait for its stream is this late.
LATE_S = 0.05


class _Spoiled(Planted):
    """The outputs are spoiled at the end."""

    def finish(self, case: Case, inputs: Inputs, out: Tensor, lse: Tensor) -> Outputs:
        outputs = super().finish(case, inputs, out, lse)
        return self.spoil(case, inputs, outputs)

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        raise NotImplementedError


def _lse(outputs: Outputs) -> Tensor:
    assert outputs.lse is not None, "`TiledForward.finish` gives one"
    return outputs.lse


class RowZeroed(_Spoiled):
    """One row of one head is 0."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        outputs.out[-1, case.seqlen_q * 2 // 3, -1] = 0.0
        return outputs


class RowNeverWritten(_Spoiled):
    """One row of one head keeps what the memory held."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        import torch

        row = case.seqlen_q * 2 // 3
        empty = torch.empty_like(outputs.out)
        empty[:, :row], empty[:, row + 1 :] = outputs.out[:, :row], outputs.out[:, row + 1 :]
        empty[:, row, :-1] = outputs.out[:, row, :-1]
        return replace(outputs, out=empty)


class ColumnsNeverStored(_Spoiled):
    """The second half of the output's columns keeps what the memory held."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        import torch

        empty, half = torch.empty_like(outputs.out), case.head_dim_v // 2
        empty[..., :half] = outputs.out[..., :half]
        return replace(outputs, out=empty)


class HalfOfHeadDim(_Spoiled):
    """Only the first half of the head dimension is computed with: of q and k in the scores, and of v; the rest is 0."""

    def product(self, a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
        half = b.shape[-2] // 2 if into is None else b.shape[-2]
        return super().product(a[..., :half], b[..., :half, :], into)

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        outputs.out[..., case.head_dim_v // 2 :] = 0.0
        return outputs


class AllZeros(_Spoiled):
    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.zero_())


class NanSwallowed(_Spoiled):
    """NaN in the result is replaced by 0."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.nan_to_num(nan=0.0))


class LseInLog2(_Spoiled):
    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, lse=_lse(outputs) / math.log(2.0))


class LseSign(_Spoiled):
    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, lse=-_lse(outputs))


class WrongDtype(_Spoiled):
    """The output is fp32, or where it should be, bf16."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        out = outputs.out
        return replace(outputs, out=out.bfloat16() if case.dtype == "fp32" else out.float())


class WrongShape(_Spoiled):
    """The output is (batch, heads, seqlen_q, head_dim_v)."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.transpose(1, 2).contiguous())


class WritesItsInput(_Spoiled):
    """One element of k is changed."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        inputs.k[0, 0, 0, 0] += 1.0
        return outputs


class LseMixesBases(_Spoiled):
    """The maximum in natural units plus the row sum's log2."""

    def combine(self, parts: list[Running]) -> tuple[Tensor, Tensor]:
        out, lse = super().combine(parts)
        (part,) = parts
        log = part.total.log().squeeze(-1)
        return out, lse.where(lse == -math.inf, lse + log * (1.0 / math.log(2.0) - 1.0))

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return outputs


class LseOfFewKeysInLog2(_Spoiled):
    """Without a mask, a path of its own for keys that fit into two tiles gives the lse in log2."""

    def unsupported(self, case: Case) -> str | None:
        half = -(-case.seqlen_k // 2)
        taken = not case.causal and half <= 2 * self.choices.tile_n
        return super().unsupported(case) or (None if taken else "neither the keys nor half of them take that path")

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        few = case.seqlen_k <= 2 * self.choices.tile_n
        return replace(outputs, lse=_lse(outputs) / math.log(2.0)) if few else outputs


class LseRowsSwapped(_Spoiled):
    """Rows r and r + 8 of the lse, which one thread of an accumulator holds, are taken for each other."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        whole = case.seqlen_q // 16 * 16
        lse = _lse(outputs).clone()
        lse[..., :whole] = lse[..., :whole].unflatten(2, (-1, 2, 8)).flip(3).flatten(2)
        return replace(outputs, lse=lse)


class OneInAThousandOff(_Spoiled):
    """One element in a thousand is 3 % too large."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        outputs.out.view(-1)[7::1000] *= 1.03
        return outputs


class DecodingGroupReversed(_Spoiled):
    """A single query: the heads of a group, which are packed into one tile, are stored in reverse."""

    def unsupported(self, case: Case) -> str | None:
        packed = case.seqlen_q == 1 and case.num_heads > case.num_heads_kv
        return super().unsupported(case) or (None if packed else "nothing is packed")

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        groups = outputs.out.unflatten(2, (case.num_heads_kv, -1))
        return replace(outputs, out=groups.flip(3).flatten(2, 3))


class CachedAnswer(Planted):
    """An answer is kept by shape and given again, whatever the numbers."""

    def __init__(self, choices: Choices = Choices()):
        super().__init__(choices)
        self._answers: dict[object, Outputs] = {}

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        key = (case.dtype, inputs.q.shape, inputs.k.shape, case.causal)

        def call() -> Outputs:
            if key not in self._answers:
                self._answers[key] = self.forward(case, inputs)
            return self._answers[key]

        return call


class NobodyWaits(Planted):
    """The work runs beside the caller, who gets the outputs before they are written (on a GPU: another stream)."""

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        def call() -> Outputs:
            done = self.forward(case, inputs)
            out, lse = torch.empty_like(done.out), torch.empty_like(_lse(done))

            def write() -> None:
                time.sleep(LATE_S)
                out.copy_(done.out)
                lse.copy_(_lse(done))

            threading.Thread(target=write, daemon=True).start()
            return Outputs(out, lse)

        return call


class RightOnlyOnce(Planted):
    """The first call is right; later ones start from what it left behind."""

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        left: list[Tensor] = []

        def call() -> Outputs:
            outputs = self.forward(case, inputs)
            if left:
                outputs = replace(outputs, out=(outputs.out.float() + left[0] * 2**-6).to(outputs.out.dtype))
            left.append(outputs.out.float())
            return outputs

        return call


class Nondeterministic(Planted):
    """Key tiles are added in another order every time, and the kernel says that it repeats bit for bit."""

    def tiles(self, case: Case) -> list[tuple[int, int]]:
        import torch

        tiles = super().tiles(case)
        return [tiles[index] for index in torch.randperm(len(tiles)).tolist()]


class RaceInOneOfAThousand(Planted):
    """Every call one element in a thousand, another one each time, is off by a unit in its last place."""

    def forward(self, case: Case, inputs: Inputs) -> Outputs:
        import torch

        outputs = super().forward(case, inputs)
        flat = outputs.out.view(-1).view(torch.int16)
        flat[torch.randint(0, len(flat), (1 + len(flat) // 1000,))] ^= 1
        return outputs


class SplitsByBatch(Planted):
    """Keys are split in two where the batch has fewer than two elements, and the kernel says that bits do not depend on
    the batch."""

    batch_invariant = True

    def unsupported(self, case: Case) -> str | None:
        few = case.seqlen_k <= self.choices.tile_n
        return super().unsupported(case) or ("one tile of keys cannot be split" if few else None)

    def forward(self, case: Case, inputs: Inputs) -> Outputs:
        splits = 2 if case.batch == 1 else 1
        return TiledForward(replace(self.choices, splits=splits)).forward(case, inputs)
