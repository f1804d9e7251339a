"""Bugs, each planted into the right forward of `planted_forward` by overriding the one method that it lives in.

They are bugs that attention kernels have shipped with, or that the tolerances in use were shown to let through. Each
class's docstring says what goes wrong; `applies` says where the bug can show at all.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.accumulate import matmul_into
from attnbench.backend import Call, Inputs, Outputs
from attnbench.case import DTYPES, FP8_DTYPES, Case
from attnbench.planted_forward import Choices, Running, TiledForward

if TYPE_CHECKING:
    from torch import Tensor

# A kernel that does not wait for its stream is this late.
LATE_S = 0.05


class Planted(TiledForward):
    """A forward with one bug. `dtypes`: where it can be; `causal_only`: it lies in the mask."""

    dtypes: tuple[str, ...] = DTYPES
    causal_only = False

    def __init__(self, choices: Choices = Choices()):
        super().__init__(choices)
        self.name = _words(type(self).__name__)

    def unsupported(self, case: Case) -> str | None:
        if case.dtype not in self.dtypes:
            return f"the bug is one of {', '.join(self.dtypes)}"
        return "the bug lies in the causal mask" if self.causal_only and not case.causal else None


def _words(name: str) -> str:
    """`MaskSeesOneMore` -> `mask sees one more`"""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


class _Mask(Planted):
    causal_only = True
    shift = 0

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        last = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.seqlen_k - case.seqlen_q + self.shift
        return torch.arange(start, stop, device=q.device) > last


class MaskSeesOneMore(_Mask):
    """Each query sees one key past the diagonal."""

    shift = 1


class MaskSeesOneLess(_Mask):
    """Each query misses the key on the diagonal."""

    shift = -1


class MaskTurnedRound(_Mask):
    """Each query sees the keys from the diagonal on, instead of those up to it."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        first = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.seqlen_k - case.seqlen_q
        return torch.arange(start, stop, device=q.device) < first


class MaskTopLeft(_Mask):
    """The mask hangs at the top left corner; it shows where seqlen_q != seqlen_k."""

    def hidden(self, case: Case, start: int, stop: int, q: Tensor) -> Tensor | None:
        import torch

        return torch.arange(start, stop, device=q.device) > torch.arange(case.seqlen_q, device=q.device)[:, None]


class LastTileDropped(Planted):
    """The loop over key tiles ends one early."""

    def tiles(self, case: Case) -> list[tuple[int, int]]:
        return super().tiles(case)[:-1]


class TailUnmasked(Planted):
    """Keys past seqlen_k in the last tile, read as 0, take part in the softmax. The causal mask hides them by itself."""

    def unsupported(self, case: Case) -> str | None:
        if case.causal or case.seqlen_k % self.choices.tile_n == 0:
            return "there are no keys past the end that a query could see"
        return super().unsupported(case)

    def scores(self, case: Case, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        import torch

        scores = super().scores(case, q, k, start, stop)
        return torch.nn.functional.pad(scores, (0, self.choices.tile_n - (stop - start)))

    def add_values(self, out: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return super().add_values(out, p[..., : v.shape[2]], v)


class StaleMaximum(Planted):
    """The second tile's exponentials use the maximum of before the tile, everything else the new one."""

    def weights(self, state: Running, number: int, scores: Tensor, maximum: Tensor) -> Tensor:
        if number == 1:
            maximum = state.maximum.masked_fill(state.maximum == -math.inf, 0.0)
        return super().weights(state, number, scores, maximum)


class RescaleMissing(Planted):
    """The running sums are not brought to a new maximum."""

    def rescale(self, state: Running, maximum: Tensor) -> Tensor:
        import torch

        return torch.ones_like(maximum)


class ScaleFivePercentHigh(Planted):
    def scale(self, case: Case) -> float:
        return 1.05 * case.scale


class ScaleMissing(Planted):
    """q k^T is not multiplied by head_dim**-0.5."""

    def scale(self, case: Case) -> float:
        return 1.0


class WrongGqaHead(Planted):
    """Query heads take the key/value heads in turn instead of in groups."""

    def unsupported(self, case: Case) -> str | None:
        return super().unsupported(case) or ("no groups" if case.num_heads == case.num_heads_kv else None)

    def kv_heads(self, case: Case, tensor: Tensor) -> Tensor:
        import torch

        return torch.arange(case.num_heads, device=tensor.device) % case.num_heads_kv


class VTileTransposed(Planted):
    """The first square of a V tile is taken transposed."""

    def add_values(self, out: Tensor, p: Tensor, v: Tensor) -> Tensor:
        side = min(v.shape[2], v.shape[3])
        turned = v.clone()
        turned[:, :, :side, :side] = v[:, :, :side, :side].transpose(2, 3)
        return super().add_values(out, p, turned)


class _Spoiled(Planted):
    """The outputs are spoiled at the end."""

    def finish(self, case: Case, inputs: Inputs, out: Tensor, lse: Tensor) -> Outputs:
        outputs = super().finish(case, inputs, out, lse)
        return self.spoil(case, inputs, outputs)

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        raise NotImplementedError


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


class AllZeros(_Spoiled):
    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.zero_())


class NanSwallowed(_Spoiled):
    """NaN in the result is replaced by 0."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.nan_to_num(nan=0.0))


class LseInLog2(_Spoiled):
    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, lse=outputs.lse / math.log(2.0))


class LseSign(_Spoiled):
    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, lse=-outputs.lse)


class WrongDtype(_Spoiled):
    """The output is fp32."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.float())


class WrongShape(_Spoiled):
    """The output is (batch, heads, seqlen_q, head_dim_v)."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out.transpose(1, 2).contiguous())


class WritesItsInput(_Spoiled):
    """One element of k is changed."""

    def spoil(self, case: Case, inputs: Inputs, outputs: Outputs) -> Outputs:
        inputs.k[0, 0, 0, 0] += 1.0
        return outputs


class DescalesSwapped(Planted):
    """The descales of k and v are taken for each other."""

    dtypes = FP8_DTYPES

    def descales(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().descales(inputs)
        return q, v, k


class PSaturated(Planted):
    """A rescale of up to 2^4 is skipped with P times 2^8: what passes 448 saturates (FlashAttention issues 2577, 2716).
    e5m2 holds 2^12, and the same kernel is right in it."""

    dtypes = ("e4m3",)

    def __init__(self, choices: Choices = Choices()):
        super().__init__(replace(choices, lazy_rescale=4 * math.log(2.0)))


class AccumulationTruncated(Planted):
    """Sums are Hopper's FP8 ones, 14 bits, but declared fp32 (FlashAttention pull request 2250, vLLM issue 23813)."""

    dtypes = FP8_DTYPES

    def product(self, a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
        zero = a.new_zeros((*a.shape[:-1], b.shape[-1])) if into is None else into
        return matmul_into(zero, a, b, "hopper")


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
            late = Outputs(torch.empty_like(done.out), torch.empty_like(done.lse))

            def write() -> None:
                time.sleep(LATE_S)
                late.out.copy_(done.out)
                late.lse.copy_(done.lse)

            threading.Thread(target=write, daemon=True).start()
            return late

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


BUGS: tuple[type[Planted], ...] = (
    MaskSeesOneMore, MaskSeesOneLess, MaskTurnedRound, MaskTopLeft, LastTileDropped, TailUnmasked, StaleMaximum,
    RescaleMissing, ScaleFivePercentHigh, ScaleMissing, WrongGqaHead, VTileTransposed, RowZeroed, RowNeverWritten,
    AllZeros, NanSwallowed, LseInLog2, LseSign, DescalesSwapped, PSaturated, AccumulationTruncated, WrongDtype,
    WrongShape, WritesItsInput, CachedAnswer, NobodyWaits, RightOnlyOnce, Nondeterministic,
)  # fmt: skip
