"""The three operators as calls. Layout: (batch, seqlen, heads * head_dim), our own with the last two dimensions joined.

com.microsoft's are described in onnxruntime's docs/ContribOperators.md, Attention in ONNX's docs/Operators.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnbench.backend import Call, Inputs, Outputs
from attnbench.backends.ort.session import Values, binding, operator, session
from attnbench.case import Case

MICROSOFT = "com.microsoft"
LEFT_OUT = ("", None)


def mha(case: Case, inputs: Inputs) -> Call:
    causal = case.causal and not sees_all(case)
    attributes = {"num_heads": case.num_heads, "scale": float(case.scale), "unidirectional": int(causal)}
    return _call(case, "MultiHeadAttention", MICROSOFT, attributes, _flat(inputs))


def attention(case: Case, inputs: Inputs) -> Call:
    """Its own causal mask is top-left aligned; with the number of valid keys (opset 24's nonpad_kv_seqlen) the last
    query is aligned with the last of them."""
    import torch

    attributes = {
        "q_num_heads": case.num_heads, "kv_num_heads": case.num_heads_kv, "scale": float(case.scale),
        "is_causal": int(case.causal),
    }  # fmt: skip
    given = _flat(inputs)
    if case.causal and case.diagonal != 0:
        valid = torch.full((case.batch,), case.seqlen_k, dtype=torch.int64)
        given = (*given, *[LEFT_OUT] * 3, ("nonpad_kv_seqlen", valid))  # no attn_mask, past_key, past_value
    return _call(case, "Attention", "", attributes, given)


def gqa(case: Case, inputs: Inputs) -> Call:
    """NOTE: the cache is the same tensor as past and as present; with two tensors every call would copy all of it."""
    import torch

    past = case.seqlen_k - case.seqlen_q
    attributes = {
        "num_heads": case.num_heads, "kv_num_heads": case.num_heads_kv, "scale": float(case.scale),
        "causal": int(case.causal),
    }  # fmt: skip
    keys, values = (tensor.transpose(1, 2).contiguous() for tensor in (inputs.k, inputs.v))
    given: Values = (
        *_flat(Inputs(inputs.q, inputs.k[:, past:], inputs.v[:, past:])),
        *([("past_key", keys), ("past_value", values)] if past else [LEFT_OUT] * 2),
        ("seqlens_k", torch.full((case.batch,), case.seqlen_k - 1, dtype=torch.int32)),
        ("total_sequence_length", torch.tensor([case.seqlen_k], dtype=torch.int32)),
    )
    cache = (("present_key", keys), ("present_value", values))
    return _call(case, "GroupQueryAttention", MICROSOFT, attributes, given, cache)


def sees_all(case: Case) -> bool:
    """Whether the mask hides nothing, as from a single query, bottom-right aligned."""
    return not case.causal or case.diagonal >= case.seqlen_k - 1


def _flat(inputs: Inputs) -> Values:
    return tuple((name, getattr(inputs, name).flatten(2).contiguous()) for name in ("q", "k", "v"))


def _call(
    case: Case, name: str, domain: str, attributes: Mapping[str, int | float], given: Values, kept: Values = ()
) -> Call:
    """A call that writes its output where the last one did. kept: outputs beside it that nobody reads."""
    import torch

    query = given[0][1]
    assert query is not None, "q is never left out"
    out = torch.empty(case.batch, case.seqlen_q, case.num_heads, case.head_dim_v, dtype=query.dtype)
    made: Values = (("out", out.flatten(2)), *kept)
    run = session(operator(name, domain, attributes, given, made), torch.get_num_threads())
    bound, outputs = binding(run, given, made), Outputs(out)

    def call(held: Values = (*given, *made)) -> Outputs:  # held: the binding keeps no tensor alive
        run.run_with_iobinding(bound)
        return outputs

    return call
