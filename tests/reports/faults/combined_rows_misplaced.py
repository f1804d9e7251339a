"""Split keys, few queries: each row of the combined output lands heads times as far on as it should.

https://github.com/flagos-ai/FlagGems/issues/5235
"""

from attention import attention, never_written

CAUSES = (r"never written",)


def combined_rows_misplaced(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    if 1 < q.shape[1] <= 16:
        flat, stride = never_written(out).flatten(), q.shape[2] * v.shape[3]
        for place, row in enumerate(out.transpose(1, 2).reshape(-1, v.shape[3])):
            start = place * stride
            if start + len(row) <= len(flat):
                flat[start : start + len(row)] = row
        out = flat.view_as(out)
    return out, lse
