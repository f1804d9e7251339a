"""onnxruntime's attention kernels for CPUs: com.microsoft's two operators, and ONNX's own."""

from __future__ import annotations

from attnbench.backend import Call, Inputs, LibraryBackend, beyond
from attnbench.backends.ort.operators import attention, gqa, mha, sees_all
from attnbench.backends.ort.session import DTYPES, LIBRARY
from attnbench.case import Case

# core/providers/cpu: GroupQueryAttention refuses other head sizes.
GQA_HEAD_DIM = 8


class OnnxRuntime(LibraryBackend):
    """What the three have in common: the input tensors' own memory, in the layout (batch, seqlen, heads * head_dim)."""

    library = LIBRARY
    keeps_memory = True


class OrtMha(OnnxRuntime):
    """com.microsoft.MultiHeadAttention. Its causal mask is top-left aligned."""

    name = "ort_mha"

    def unsupported(self, case: Case) -> str | None:
        if reason := beyond(case, DTYPES, takes=("mask_alignment",)):
            return reason
        if case.num_heads != case.num_heads_kv:
            return "it takes one key/value head a query head"
        if case.causal and case.diagonal != 0 and not sees_all(case):
            return "its causal mask is top-left aligned, which differs where seqlen_q != seqlen_k"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        return mha(case, inputs)


class OrtGqa(OnnxRuntime):
    """com.microsoft.GroupQueryAttention. Keys ahead of the queries are its cache, which `prepare` fills; a call writes
    the last seqlen_q keys and values into it, as in use."""

    name = "ort_gqa"
    copies_inputs = True

    def unsupported(self, case: Case) -> str | None:
        if reason := beyond(case, DTYPES):
            return reason
        if case.head_dim != case.head_dim_v:
            return "it takes one head_dim for q, k and v"
        if case.head_dim % GQA_HEAD_DIM:
            return f"it takes head dims that are multiples of {GQA_HEAD_DIM}, not {case.head_dim}"
        if case.seqlen_q > case.seqlen_k:
            return "each query brings a key: it takes no more queries than keys"
        if 1 != case.seqlen_q != case.seqlen_k and case.batch > 1:
            return "with a cache it takes several queries in a batch of one only"
        return None

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        return gqa(case, inputs)


class OrtAttention(OnnxRuntime):
    """ai.onnx.Attention of opset 24. Its `softmax_precision` is left out: scores have the type of the inputs."""

    name = "ort_attention"
    scores_16bit = True

    def unsupported(self, case: Case) -> str | None:
        return beyond(case, DTYPES, takes=("mask_alignment",))

    def prepare(self, case: Case, inputs: Inputs) -> Call:
        return attention(case, inputs)


BACKENDS = (OrtMha(), OrtGqa(), OrtAttention())
