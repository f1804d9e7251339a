"""What a repro script measures: attention head by head in fp64, and the figures that the judge's rules are about.

`repro` copies this source into its scripts, which have torch and nothing of this package; so it uses names of this
module only. It is a second formulation on purpose: a script that shares the judge's code would share its mistakes.
"""

from __future__ import annotations

import math

# Half the machine epsilon by dtype; an 8-bit case returns bf16.
UNITS = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": 2.0**-24}
# A weight this close to 1 leaves nothing to other keys.
RETRIEVED = 1e-9
# Sums in fp32 of up to 2^20 terms lose less than this of their largest.
FP32_SUM = 2.0**-14
# Errors that look like those of a mistake, in rows that see so many keys at least.
PATTERN_KEYS = 512
LIKE_SCORES = "error as of scores in 16 bits, in standard errors"
LIKE_SUMS = "error as of sums in 16 bits, in standard errors"
LIKE_WEIGHTS = "error as of small weights left out, in standard errors"
# Figures that are shown whether or not a limit was recorded.
ALWAYS = ("relative RMSE", "worst row's relative RMSE", "max error", "LSE error")


def oracle(case, q, k, v):
    """fp64 attention of one head: out (seqlen_q, head_dim_v), lse and each row's largest weight (seqlen_q,)."""
    import torch

    scores = q.double() @ k.double().T * case.scale
    if case.causal:
        rows = torch.arange(case.seqlen_q, device=q.device)[:, None] + case.diagonal
        scores.masked_fill_(torch.arange(case.seqlen_k, device=q.device) > rows, -math.inf)
    lse = scores.logsumexp(dim=-1)
    p = (scores - lse.nan_to_num(neginf=0.0)[:, None]).exp()
    return p @ v.double(), lse, p.amax(-1)


def unit_of(case):
    """What an element of the output may be off by, relative to it: in fp32 what a sum over the keys errs."""
    if case.dtype == case.key_dtype == "fp32":
        return UNITS["fp32"] * (8.0 + math.sqrt(case.seqlen_k) / 2)
    return max(UNITS.get(name, UNITS["bf16"]) for name in (case.dtype, case.key_dtype))


def hidden_nan(case, q, k, v, out):
    """Rows with a NaN in q, or in a key or value that they see, whose output shows none; None where the head holds no
    NaN."""
    import torch

    nan, of_q = k.isnan().any(-1) | v.isnan().any(-1), q.isnan().any(-1)
    if not bool(nan.any() | of_q.any()):
        return None
    first = case.diagonal if case.causal else case.seqlen_k
    seen = (torch.arange(case.seqlen_q, device=v.device) + 1 + first).clamp(0, case.seqlen_k)
    key = int(nan.int().argmax()) if bool(nan.any()) else case.seqlen_k
    return int((((seen > key) | (of_q & (seen > 0))) & ~out.isnan().any(-1)).sum())


def head_figures(case, q, k, v, out, lse):
    """(sums, maxima with their rows) of one head; out and lse are the kernel's. NaN counts as infinitely far off."""
    hidden = hidden_nan(case, q, k, v, out)
    if hidden is not None:  # 0 x NaN is NaN: the head's other rows may be either
        return {"hidden": hidden}, {}
    exact, exact_lse, top = oracle(case, q, k, v)
    unit, blind = unit_of(case), exact_lse == -math.inf
    got, error = out.double(), out.double() - exact
    # Retrieval is exact in 16 bits; a descaled v may round the other way, by one unit in the last place, and fp32 errs.
    rounds = 2 * unit if case.dtype in ("fp32", "e4m3", "e5m2") else 0.0
    slack = rounds * exact.abs() + RETRIEVED * exact.abs().amax(-1, True)
    missed = ((got - exact.to(out.dtype).double()).abs() > slack).any(-1) & (top > 1.0 - RETRIEVED)
    norms = exact.square().mean(-1).sqrt()
    mean_scale = exact.abs() + FP32_SUM / unit * v.double().abs().max()
    sums = {
        "strayed": int((~out.isfinite()).sum()), "missed": int(missed.sum()), "count": error.numel(),
        "squared": float(error.square().sum()), "total": float(exact.square().sum()),
        "power": float(got.square().sum()), "signed": float((error / exact)[~blind].sum()),
        "signed_count": int((~blind).sum()) * exact.shape[1],
    }  # fmt: skip
    by_row = {
        "row": (error.square().mean(-1).sqrt() / norms).masked_fill(norms == 0, 0.0),
        "peak": error.abs().amax(-1),
        "blind": got.abs().amax(-1).masked_fill(~blind, 0.0),
        "relative": (error.abs() / exact.abs()).amax(-1).masked_fill(blind, 0.0),
        "of_mean": (error.abs() / mean_scale).amax(-1).masked_fill(blind, 0.0),
    }
    if lse is not None:
        by_row["lse"] = (lse - exact_lse).abs().masked_fill((lse == -math.inf) & blind, 0.0)
    maxima = {name: largest.nan_to_num(nan=math.inf).max(0) for name, largest in by_row.items()}
    return sums, {name: (float(value), int(row)) for name, (value, row) in maxima.items()}


def figures(case, q, k, v, out, lse):
    """(sums, maxima with their places) of all heads; tensors (batch, seqlen, heads, dim), lse (batch, heads, rows)."""
    names = ("hidden", "strayed", "missed", "count", "squared", "total", "power", "signed", "signed_count")
    total, worst = dict.fromkeys(names, 0), {}
    for batch in range(case.batch):
        for head in range(case.num_heads):
            kv_head = head // (case.num_heads // case.num_heads_kv)
            tensors = q[batch, :, head], k[batch, :, kv_head], v[batch, :, kv_head], out[batch, :, head]
            sums, maxima = head_figures(case, *tensors, None if lse is None else lse[batch, head])
            for name, value in sums.items():
                total[name] += value
            for name, (value, row) in maxima.items():
                worst[name] = max(worst.get(name, (-1.0, "")), (value, f"batch {batch}, head {head}, row {row}"))
    return total, worst


def mistaken(case, scores, v):
    """(rule, what a small mistake of precision adds to a head's output); some of those that the judge looks for. scores
    (rows, keys) fp32, products of q and k, hidden ones -inf."""
    import torch

    def rounded(x):
        return x.bfloat16().float()

    right = (scores * case.scale).softmax(-1)
    for factor in (1.0, case.scale, case.scale / math.log(2.0)):
        yield LIKE_SCORES, ((rounded(scores * factor) * (case.scale / factor)).softmax(-1) - right) @ v
    yield LIKE_WEIGHTS, -right.masked_fill(right >= 1e-3 * right.amax(-1, True), 0.0) @ v
    for width in (32, 64, 128):
        starts = range(0, scores.shape[1], width)
        for order in (starts, starts[::-1]):
            largest = torch.full_like(right[:, :1], 0.0)
            each, kept, exact, left_out = (torch.zeros_like(right[:, :1] * v[:1]) for _ in range(4))
            for start in order:
                tile = right[:, start : start + width]
                larger = torch.maximum(largest, tile.amax(-1, True))
                unit = larger.masked_fill(larger == 0, 1.0)
                part = rounded(tile / unit) @ v[start : start + width]
                each, exact = each + (rounded(part) - part) * unit, exact + part * unit
                kept = rounded(kept * largest / unit + part)
                left_out = left_out - tile.masked_fill(tile >= 1e-3 * larger, 0.0) @ v[start : start + width]
                largest = larger
            yield LIKE_SUMS, each
            yield LIKE_SUMS, kept * largest - exact
            yield LIKE_WEIGHTS, left_out


def likenesses(case, q, k, v, out):
    """{rule: by how many standard errors the output's error holds more than a twentieth of a predicted one}."""
    import torch

    rows = {}
    for batch in range(case.batch):
        for head in range(case.num_heads):
            kv_head = head // (case.num_heads // case.num_heads_kv)
            tensors = q[batch, :, head].float(), k[batch, :, kv_head].float(), v[batch, :, kv_head].float()
            exact = oracle(case, *tensors)[0]
            index = torch.arange(case.seqlen_q, device=q.device)
            seen = index + 1 + case.diagonal if case.causal else torch.full_like(index, case.seqlen_k)
            use = seen >= PATTERN_KEYS
            error = (out[batch, :, head].double() - exact)[use]
            spacing = 2.0 ** (exact[use].abs().clamp(min=1e-30).log2().floor() - 7)
            noise = spacing.square() / 12 + (0.41 / 256) ** 2 * exact[use].square().mean(-1, True)
            hidden = torch.arange(case.seqlen_k, device=q.device) >= seen[:, None]
            scores = (tensors[0] @ tensors[1].T).masked_fill(hidden, -math.inf)[use]
            for place, (rule, made) in enumerate(mistaken(case, scores, tensors[2])):
                weighted = made / noise
                sums = ((weighted * error).sum(-1), (weighted * made).sum(-1))
                rows.setdefault((rule, place), []).append(sums)
    found = {}
    for (rule, _), parts in rows.items():
        products, sizes = (torch.cat(part) for part in zip(*parts))
        size = float(sizes.sum())
        share = float(products.sum()) / max(size, 1e-30)
        scatter = math.sqrt(float((products - share * sizes).square().sum())) / max(size, 1e-30)
        found[rule] = max(found.get(rule, 0.0), (share - 0.05) / max(scatter, max(size, 1e-30) ** -0.5))
    return found


def measured(case, q, k, v, out, lse):
    """{rule: (value, place)}, by the names that the judge gives its rules."""
    sums, maxima = figures(case, q, k, v, out, lse)
    nothing = (0.0, "")
    rms = math.sqrt(sums["total"] / max(sums["count"], 1)) or 1.0
    peak, where = maxima.get("peak", nothing)
    found = {
        "relative RMSE": (math.sqrt(sums["squared"] / max(sums["count"], 1)) / rms, ""),
        "worst row's relative RMSE": maxima.get("row", nothing),
        "max error": (peak / rms, where),
        "rows that see a NaN of v and hide it": (sums["hidden"], ""),
        "rows with a NaN in q, or in a k that they see, that hide it": (sums["hidden"], ""),
        "RMS(out) / RMS(ref) - 1": (abs(math.sqrt(sums["power"] / sums["total"]) - 1.0) if sums["total"] else 0.0, ""),
        "output of rows that see no key": maxima.get("blind", nothing),
        "non-finite outputs": (sums["strayed"], ""),
        "outputs that are not 0 with v_descale 0": (int((out != 0).sum()), ""),
    }
    if case.inputs.startswith("needle"):
        found["rows that did not retrieve their key's v"] = (sums["missed"], "")
    if case.inputs == "v_ones":
        found["output with v = 1, off 1 by"] = maxima.get("relative", nothing)
    if case.inputs == "equal_logits":
        found["output off the mean of v"] = maxima.get("of_mean", nothing)
    if case.inputs in ("same_sign_v", "v_trend"):
        found["mean signed error with v of one sign"] = (abs(sums["signed"] / max(sums["signed_count"], 1)), "")
    if lse is not None:
        found["LSE error"] = maxima.get("lse", nothing)
    if case.dtype == "bf16" and case.inputs == "normal" and case.seqlen_k >= PATTERN_KEYS:
        found |= {rule: (sigmas, "") for rule, sigmas in likenesses(case, q, k, v, out).items()}
    return found


def told(found, limits):
    """Prints every figure that has a limit, and those shown always; whether one is over its limit, or not finite."""
    failed = False
    for rule, (value, where) in found.items():
        limit = limits.get(rule)
        wrong = limit is not None and not value <= limit
        failed |= wrong
        if limit is not None:
            print(f"{rule}: {value:.4g}, limit {limit:.4g}" + (f"  WRONG {where}" if wrong else ""))
        elif rule in ALWAYS:
            print(f"{rule}: {value:.4g}")
    for rule in limits:
        if rule not in found:
            print(f"{rule}: recorded with the record, and not computed here")
    strayed = found["non-finite outputs"][0]
    if "non-finite outputs" not in limits:
        print("non-finite outputs:", strayed)
    return failed or strayed > 0
