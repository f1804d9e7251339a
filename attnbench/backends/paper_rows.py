"""The two baselines of the FlashAttention-3 paper's error table (arXiv 2407.08608, table 3), emulated.

`fp16_standard`: attention that materializes scores and softmax in fp16, as the paper says its baseline keeps them.
`fp8_baseline`: per-tensor scales, fp32 accumulation, softmax and P in fp16. They are
less accurate than the eager reference on purpose, so that they run only where a suite names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.backend import Base, Call, Inputs, Outputs
from attnbench.case import Case

if TYPE_CHECKING:
    from torch import Tensor


class _Half(Base):
    by_name_only = ("cpu", "cuda")
    name = ""

    def operands(self, inputs: Inputs, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def extra_bytes(self, case: Case) -> int:
        """fp32 scores of one head, and their fp16 copies."""
        return case.seqlen_q * case.seqlen_k * 16

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        import torch

        q, k, v = (tensor.float().transpose(1, 2) for tensor in self.operands(inputs, case))
        ratio = case.num_heads // case.num_heads_kv
        hidden = _hidden(case, q) if case.causal else None

        def call() -> Outputs:
            out = torch.empty(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v, device=q.device,
                              dtype=inputs.q.dtype)  # fmt: skip
            for batch in range(case.batch):
                for head in range(case.num_heads):
                    kv_head = head // ratio
                    p = _half_softmax(q[batch, head] @ k[batch, kv_head].T, case.scale, hidden)
                    out[batch, :, head] = (p.float() @ v[batch, kv_head]).to(out.dtype)
            return Outputs(out)

        return call


def _half_softmax(scores: Tensor, scale: float, hidden: Tensor | None) -> Tensor:
    """fp16 after every step: the product, the difference to the maximum, the exponential, the sum, the quotient."""
    scores = scores.mul_(scale).half()
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    maximum = scores.amax(dim=-1, keepdim=True)
    p = (scores - maximum.masked_fill(maximum == float("-inf"), 0.0)).exp_()
    total = p.float().sum(dim=-1, keepdim=True).half()
    return p.div_(total.masked_fill(total == 0, 1.0))


def _hidden(case: Case, q: Tensor) -> Tensor:
    import torch

    last = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.diagonal
    return torch.arange(case.seqlen_k, device=q.device) > last


class Fp16Standard(_Half):
    name = "fp16_standard"

    def unsupported(self, case: Case) -> str | None:
        return None if case.dtype == "fp16" else f"it is the fp16 row of the paper's table, not {case.dtype}"

    def operands(self, inputs: Inputs, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        return inputs.q, inputs.k, inputs.v


class Fp8Baseline(_Half):
    name = "fp8_baseline"

    def unsupported(self, case: Case) -> str | None:
        if case.dtype != "e4m3":
            return f"it is an e4m3 row of the paper's table, not {case.dtype}"
        if case.scaling != "tensor" or case.hadamard:
            return "the paper's FP8 baseline has one scale a tensor and no Hadamard transform"
        return None

    def operands(self, inputs: Inputs, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        from attnbench.reference.quantize import plain_inputs

        plain = plain_inputs(case, inputs)
        return plain.q, plain.k, plain.v


BACKENDS = (Fp16Standard(), Fp8Baseline())
