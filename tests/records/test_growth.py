"""The exponent of peak memory over seqlen: exact powers, least squares done another way, what is no evidence."""

import numpy
import pytest
from fakes.report_runs import ok, unsupported

from attnbench.records.growth import growth, memory_curves
from attnbench.records.result import Result

LENGTHS = (128, 256, 512, 1024)


def power(exponent, constant=1000, lengths=LENGTHS):
    return tuple((seqlen, round(constant * seqlen**exponent)) for seqlen in lengths)


@pytest.mark.parametrize("exponent", [1, 2])
def test_an_exact_power_has_an_interval_of_no_width(exponent):
    found = growth([power(exponent), power(exponent, 7777, LENGTHS[1:])])
    assert found.exponent == pytest.approx(exponent, abs=1e-9) and found.last == pytest.approx(exponent, abs=1e-9)
    assert found.high - found.low < 1e-6 and found.lengths == (128, 1024) and found.points == 7


def test_several_curves_share_an_exponent_and_have_constants_of_their_own():
    """Against the same model solved as one linear system, and its interval from the covariance matrix."""
    rng = numpy.random.default_rng(3)
    curves = [tuple((n, round(size * n**1.5 * rng.uniform(0.8, 1.2))) for n in LENGTHS) for size in (50, 900, 20_000)]
    rows = [(curve, n, size) for curve, points in enumerate(curves) for n, size in points]
    design = numpy.array([[numpy.log(n), *(curve == one for one in range(3))] for curve, n, _ in rows], dtype=float)
    logs = numpy.log([size for _, _, size in rows])
    solution, residuals, _, _ = numpy.linalg.lstsq(design, logs)
    error = numpy.sqrt(residuals[0] / (12 - 4) * numpy.linalg.inv(design.T @ design)[0, 0])
    found = growth(curves)
    assert found.exponent == pytest.approx(solution[0])
    assert found.high - found.exponent == pytest.approx(2.306004 * error, rel=1e-5)  # t of 8 degrees of freedom, tables
    assert found.exponent - found.low == pytest.approx(found.high - found.exponent)


def test_equal_curves_are_no_new_evidence_and_two_lengths_are_none():
    bent = ((128, 1000), (256, 2500), (512, 4100))
    assert growth([bent, bent, bent]) == growth([bent]) and growth([bent]).high - growth([bent]).low > 1
    longer = (*bent, (1024, 9000))
    assert growth([bent, longer, longer[1:]]) == growth([longer])
    assert growth([power(2, lengths=(128, 256)), power(2, lengths=(512, 1024))]) is None and growth([]) is None


def test_lower_order_terms_bend_the_line_and_the_longest_lengths_tell_the_order():
    found = growth([tuple((n, 14 * n * n + 2000 * n) for n in LENGTHS)])
    assert 1.5 < found.exponent < found.last < 2 and found.low < found.exponent < found.high


def cells(*records):
    return {(record.case, record.backend): Result.of(record, "run") for record in records}


def held(backend, seqlen, peak, **fields):
    return ok(backend, 1e-3, timing={} if peak is None else {"peak_bytes": peak}, seqlen=seqlen, **fields)


def test_curves_hold_problems_that_differ_in_their_length_only():
    found = memory_curves(cells(
        held("naive", 512, 4, head_dim=64), held("naive", 256, 1, head_dim=64), held("naive", 256, 3, head_dim=128),
        held("naive", 512, 8, head_dim=64, causal=True), held("flash", 256, 2, head_dim=64),
        held("naive", 1024, None, head_dim=64), unsupported("flash", "no", seqlen=512, head_dim=64),
        ok("naive", 1e-3, timing={"peak_bytes": 9}, seqlen_q=1, seqlen_k=512, head_dim=64),
    ))  # fmt: skip
    assert found == {
        ("naive", 64, 64): [((256, 1), (512, 4)), ((512, 8),)],
        ("naive", 128, 128): [((256, 3),)],
        ("flash", 64, 64): [((256, 2),)],
    }
