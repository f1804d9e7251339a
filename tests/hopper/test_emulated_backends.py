"""The emulated backends: judged as any backend is, never timed, each call under a seed of its own, hazards named."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from attnbench.backends import builtin
from attnbench.case import Case, forward_flops
from attnbench.hopper.emulation import MUTATIONS, EmulationConfig, Emulator, emulated_kernel
from attnbench.records.record import Record
from attnbench.records.stored_record import stored_record
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference
from attnbench.run.runner import Outcome
from attnbench.settings import Checks, Emulation, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

CASE = Case.make(
    batch=1, num_heads=2, num_heads_kv=1, head_dim=64, seqlen_q=70, seqlen_k=130, dtype="bf16", causal=True
)
E4M3 = dataclasses.replace(CASE, dtype="e4m3", hadamard=True, inputs="outliers")
QUICK = Timing(min_samples=1, min_time_s=1e-6, max_time_s=1e-3, warmup_s=1e-6, cache="warm")
SIMPLE = "hopper_emulated[simple]"


def tried(case, backend, timed=True, checks=Checks(repeats=1)):
    phases = Phases()
    return run_trial(Problem(case, "cpu", checks, QUICK, 0, phases), backend, timed), phases


@pytest.mark.parametrize(
    ("name", "case"),
    [(SIMPLE, CASE), (SIMPLE, dataclasses.replace(CASE, dtype="fp16")), ("hopper_fp8_emulated", E4M3)],
    ids=["bf16", "fp16", "e4m3"],
)
def test_it_is_judged_and_never_timed(name, case):
    record, phases = tried(case, builtin()[name])
    assert record.status == "ok" and record.measurement is None, record.reason
    assert {"build", "check"} <= set(phases.spent_s) and "time" not in phases.spent_s
    emulated = record.kernel["emulated"]
    assert emulated["delivery"] == "random" and emulated["checks"] == "full" and emulated["seed"] > 0
    assert stored_record(record.to_json()) == record


def test_every_probe_is_posed_to_the_8_bit_kernels_too():
    """One of them sets descales to 0, which the quantize kernel's own are not."""
    record, _ = tried(E4M3, builtin()["hopper_fp8_emulated"], checks=Checks(repeats=0, probes=("descale_zero",)))
    assert record.status == "ok", record.reason


def test_the_reference_of_one_level_loses_what_the_kernel_loses():
    """A long sum of one sign: every term is cut off by the sum's exponent. v = 1 is stored as 448, three digits of its
    own, and the reference that multiplied by 1 lost a third of what the kernel does, and called that wrong."""
    case = Case.make(batch=3, seqlen_q=1, seqlen_k=1023, num_heads=8, num_heads_kv=2, head_dim=64, dtype="e4m3",
                     causal=True, inputs="v_ones")  # fmt: skip
    inputs = make_inputs(case)
    kernel = 1 - float(builtin()["hopper_fp8_emulated"].prepare(case, inputs)().out.double().mean())
    reference = 1 - float(make_reference(case, inputs).eager("hopper").out.mean())
    assert 0.015 < kernel < 0.021
    assert reference == pytest.approx(kernel, rel=0.05)


def test_a_quantize_kernel_with_other_bits_is_an_error(monkeypatch):
    monkeypatch.setattr("attnbench.hopper.quantizer.differences", lambda made, expected: "q in 3 of 4 values")
    record, _ = tried(E4M3, builtin()["hopper_fp8_emulated"], checks=Checks(repeats=0))
    assert record.kind == "exception" and "bits are not the reference quantizer's: q in 3 of 4 values" in record.reason


def test_the_same_case_has_the_same_seeds_and_each_call_its_own():
    backend = builtin()[SIMPLE]
    seeds = [backend.config(CASE, call, "random").seed for call in range(3)]
    assert len(set(seeds)) == 3 and seeds[0] == backend.config(CASE, 0, "random").seed
    assert backend.config(dataclasses.replace(CASE, seed=1), 0, "random").seed not in seeds
    assert [backend.config(CASE, call, "random:7").seed for call in range(3)] == [7, 8, 9]


def test_each_call_runs_under_every_delivery_named(monkeypatch):
    backend = builtin()[SIMPLE].under(Emulation(delivery=("lazy", "eager", "random:5"), checks="fast"))
    configs, plain = [], Emulator.configure

    def configure(self, config):
        configs.append(config)
        plain(self, config)

    monkeypatch.setattr(Emulator, "configure", configure)
    record, _ = tried(CASE, backend)
    assert record.status == "ok", record.reason
    emulated = record.kernel["emulated"]
    assert emulated["delivery"] == "lazy,eager,random:5" and emulated["checks"] == "fast"
    launches = [config for config in configs if config != EmulationConfig()]
    assert [config.delivery for config in launches[:6]] == ["lazy", "eager", "random"] * 2
    assert {config.checks for config in launches} == {"fast"}
    assert [config.seed for config in launches if config.delivery == "random"][:2] == [5, 6]


def test_other_bits_under_another_delivery_are_a_hazard(monkeypatch):
    backend = builtin()[SIMPLE].under(Emulation(delivery=("lazy", "eager")))
    plain = type(backend).launch

    def launch(self, bound, case, config):
        plain(self, bound, case, config)
        if config.delivery == "eager":
            bound.lse[0, 1, 3] += 1e-6

    monkeypatch.setattr(type(backend), "launch", launch)
    record, _ = tried(CASE, backend)
    assert record.kind == "hazard" and "lse has other bits under eager delivery than under lazy" in record.reason


def brute_force(case: Case, tile_m: int, tile_n: int, ctas: int = 1) -> dict[str, int]:
    """What a kernel of whole tiles must read of q and of k, and multiply, tile by tile: bytes and FLOP. ctas: how many
    share the keys that they read once, each with a tile of queries, be it past the last one."""
    keys = queries = products = 0
    for first in range(0, case.seqlen_q, ctas * tile_m):
        rows = min(ctas * tile_m, case.seqlen_q - first)
        last_key = case.seqlen_k - case.seqlen_q + first + rows if case.causal else case.seqlen_k
        tiles = -(-min(last_key, case.seqlen_k) // tile_n)
        queries += rows
        keys += min(tiles * tile_n, case.seqlen_k)
        products += ctas * tiles
    heads, row_bytes = case.batch * case.num_heads, 2 * case.head_dim
    return {
        "q": heads * queries * row_bytes,
        "k": heads * keys * row_bytes,
        "flops": heads * products * 4 * tile_m * tile_n * case.head_dim,
    }


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("schedule", ["simple", "overlap"])
def test_counts_are_those_of_brute_force(schedule, causal):
    backend = builtin()["hopper_emulated" if schedule == "overlap" else f"hopper_emulated[{schedule}]"]
    case = dataclasses.replace(CASE, causal=causal, seqlen_q=300, seqlen_k=420, num_heads_kv=2)
    record, _ = tried(case, backend, checks=Checks(repeats=0))
    counted, variant = record.kernel["counted"], backend.variant(case)
    expected = brute_force(case, variant.tile_m, variant.tile_n)
    out_bytes = case.batch * case.seqlen_q * case.num_heads * (2 * case.head_dim + 4)  # with lse
    assert counted["tensor_flops"] == expected["flops"]
    assert counted["useful_flops"] == forward_flops(case)
    assert counted["reread"] == round(expected["k"] / (case.seqlen_k * case.num_heads_kv * 2 * case.head_dim), 4)
    rest = counted["global_read_bytes"] - expected["q"] - 2 * expected["k"]
    assert 0 <= rest <= 64, "beyond the tensors, a counter of tiles at most"
    assert 0 <= counted["global_write_bytes"] - out_bytes <= 64
    scores = case.num_heads * case.seqlen_q * case.seqlen_k
    assert counted["exponentials"] >= scores * (0.5 if causal else 1) and counted["barrier_waits"] > 0


@pytest.mark.parametrize("head_dim", [128, 256])
def test_keys_that_two_ctas_share_are_counted_once(head_dim):
    """Three query tiles a head, so that the second pair has one tile without queries; and a tail of keys."""
    case = dataclasses.replace(CASE, causal=False, head_dim=head_dim, head_dim_v=head_dim, seqlen_q=300, seqlen_k=420)
    counted = {}
    for name, ctas in (("hopper_emulated[multicast]", 2), ("hopper_emulated", 1)):
        record, _ = tried(case, builtin()[name], checks=Checks(repeats=0))
        assert record.status == "ok", record.reason
        counted[name], variant = record.kernel["counted"], builtin()[name].variant(case)
        expected = brute_force(case, variant.tile_m, variant.tile_n, ctas)
        assert counted[name]["tensor_flops"] == expected["flops"]
        assert counted[name]["global_read_bytes"] == expected["q"] + 2 * expected["k"]
    shared, alone = counted.values()
    # Two heads on one kv head: its keys come to 3 tiles of queries each, or to 2 pairs of them.
    assert (shared["reread"], alone["reread"]) == (4, 6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"causal": True}, "under a causal mask neighbouring query tiles see different numbers"),
        ({"head_dim": 64, "head_dim_v": 64}, "no variant for bf16, head_dim 64, not causal"),
        ({"dtype": "e4m3"}, "it takes fp16 and bf16, not e4m3"),
    ],
)
def test_what_two_ctas_cannot_share_is_refused(change, reason):
    case = dataclasses.replace(CASE, **{"causal": False, "head_dim": 128, "head_dim_v": 128, **change})
    assert reason in builtin()["hopper_emulated[multicast]"].unsupported(case)


def test_fast_checks_give_the_same_bits():
    backend = builtin()[SIMPLE]
    problem = Problem(CASE, "cpu", Checks(repeats=0), QUICK, 0, Phases())
    outputs = [
        backend.under(Emulation(delivery=("random",), checks=checks)).prepare(CASE, problem.reference.inputs)()
        for checks in ("full", "fast")
    ]
    assert outputs[0].out.equal(outputs[1].out) and outputs[0].lse.equal(outputs[1].lse)


def mutated(monkeypatch, primitive, mutation):
    """The simple kernel with one call site of a primitive broken in every launch."""
    backend = builtin()[SIMPLE]
    tried(CASE, backend)  # call sites are known once they have run
    sites = emulated_kernel("simple").emulator.sites()
    site = next(site.index for site in sites if site.primitive == primitive and site.calls)
    assert mutation in MUTATIONS
    plain = type(backend).config

    def config(self, case, call, delivery):
        return dataclasses.replace(plain(self, case, call, delivery), mutation=mutation, mutation_site=site)

    monkeypatch.setattr(type(backend), "config", config)
    return backend


def test_a_hazard_is_an_error_of_its_kind_with_the_kernels_line(monkeypatch):
    record, _ = tried(CASE, mutated(monkeypatch, "cta_sync", "drop"))
    assert (record.status, record.kind) == ("error", "hazard"), record.reason
    assert ".cu" in record.reason and "delivery=random" in record.reason and "\n" not in record.reason


def test_a_hazard_counts_like_a_wrong_result(tmp_path):
    hazard = Record(CASE, "mine", "1", "error", kind="hazard", reason="race at x.cu:1: ...")
    crash = Record(CASE, "mine", "1", "error", kind="crash", reason="gone")
    assert Outcome(tmp_path, [hazard]).exit_status == 1 and Outcome(tmp_path, [crash]).exit_status == 3


def test_a_config_that_the_library_refuses_is_an_error():
    with pytest.raises(ValueError, match="refused: "):
        emulated_kernel("simple").emulator.configure(EmulationConfig(multiprocessors=0))


def test_what_is_too_large_or_not_taken_is_unsupported():
    backend = builtin()[SIMPLE]
    large = Case.make(batch=1, num_heads=16, head_dim=128, seqlen=8192, dtype="bf16")
    assert "550 GFLOP would take minutes in the emulation" in backend.unsupported(large)
    assert "no variant for bf16, head_dim 96" in backend.unsupported(
        dataclasses.replace(CASE, head_dim=96, head_dim_v=96)
    )
    assert "takes e4m3, not bf16" in builtin()["hopper_fp8_emulated"].unsupported(CASE)


def test_without_a_compiler_or_the_sources_it_is_unavailable(monkeypatch, tmp_path):
    backend = builtin()[SIMPLE]
    assert backend.unavailable() is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler: no-such-compiler is not on PATH" in backend.unavailable()
    monkeypatch.setattr("attnbench.hopper.toolchain.KERNELS", tmp_path / "none")
    assert backend.unavailable() == "the kernels' sources are not part of this installation"


def test_they_run_where_they_are_named_and_nowhere_else():
    emulated = [backend for name, backend in builtin().items() if "emulated" in name and name != "fp8_emulated"]
    assert len(emulated) == 15
    assert all(one.devices == ("cpu",) == one.by_name_only and one.emulated for one in emulated)


@pytest.mark.parametrize(
    ("name", "dtype", "key"),
    [
        ("hopper_emulated", "bf16", 128 + 16),  # whose exponential is a polynomial's
        ("hopper_emulated", "bf16", 128 + 17),
        ("hopper_fp8_emulated", "e4m3", 160 + 9),
    ],
)
def test_a_nan_score_shows_in_every_row_that_sees_it(name, dtype, key):
    """Wherever the key stands in its tile: a polynomial alone would make a weight of 0 of it."""
    case = Case.make(dtype=dtype, batch=1, seqlen_q=64, seqlen_k=500, num_heads=1, head_dim=64)
    inputs = make_inputs(case)
    if inputs.quantized is None:
        inputs.k[0, key] = float("nan")
    else:
        inputs.quantized.k.view(torch.uint8)[0, key] = 0x7F
    outputs = builtin()[name].prepare(case, inputs)()
    assert bool(outputs.out.isnan().all()) and bool(outputs.lse.isnan().all())


@pytest.mark.parametrize(("name", "dtype"), [("hopper_emulated", "fp16"), ("hopper_emulated", "bf16"),
                                             ("hopper_fp8_emulated", "e4m3")])  # fmt: skip
def test_nan_in_a_query_reaches_its_row_and_no_row_without_keys(name, dtype):
    """The maximum passes over NaN, and with keys hidden it was -inf: such a row counted as one that sees no key."""
    backend = builtin()[name]
    backend.build()
    for seqlen_q, seqlen_k, causal in ((5, 37, True), (5, 37, False), (130, 70, True)):
        case = Case.make(batch=1, num_heads=2, head_dim=64, seqlen_q=seqlen_q, seqlen_k=seqlen_k, causal=causal,
                         dtype=dtype, inputs="nan_q")  # fmt: skip
        inputs = make_inputs(case)
        outputs = backend.prepare(case, inputs)()
        given = inputs.q.isnan().any(dim=-1)
        assert given.any() and torch.equal(outputs.out.isnan().all(dim=-1), given)
        assert torch.equal(outputs.lse.isnan(), given.transpose(1, 2))
        blind = max(0, seqlen_q - seqlen_k) if causal else 0
        assert (outputs.lse[:, :, :blind] == -torch.inf).all() and (outputs.out[:, :blind] == 0).all()
