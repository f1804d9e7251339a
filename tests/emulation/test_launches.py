"""What a launch depends on: its configuration and nothing else, neither the launch before nor the host's threads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from emulator import DELIVERIES, RANDOM, EmulatedKernel, Schedule
from paths import ROOT

from attnbench.hopper.emulation import FAST
from attnbench.hopper.forward import BoundForward
from attnbench.hopper.library import KernelError


@pytest.fixture(scope="module")
def kernel() -> EmulatedKernel:
    return EmulatedKernel.build(ROOT / "kernels" / "fwd_overlap.cu")


def bound(kernel: EmulatedKernel, causal: bool = True) -> BoundForward:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn((2, 260, 2, 64), generator=generator).to(torch.bfloat16) for _ in range(3))
    variant = kernel.library.find("overlap", "bf16", 64, causal)
    assert variant is not None
    return BoundForward.of(kernel.library, variant, q, k, v, causal, 0.125)


def launched(kernel: EmulatedKernel, call: BoundForward, schedule: Schedule) -> tuple:
    """Everything that a launch says: its bits, its statistics, its counts, its report."""
    call.out.zero_()
    kernel.emulator.configure(schedule)
    call.launch()
    bits = call.out.view(torch.int16).clone(), call.lse.clone()
    counts = {name: value for name, value in kernel.emulator.counts().items() if name != "barrier_waits"}
    return bits, kernel.emulator.statistics(), counts, kernel.emulator.report()


def assert_same(one: tuple, other: tuple) -> None:
    assert one[0][0].equal(other[0][0]) and one[0][1].equal(other[0][1])
    assert one[1:] == other[1:]


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_ctas_in_flight_together_are_a_function_of_the_schedule(kernel: EmulatedKernel, delivery: str) -> None:
    """Causal tiles are dealt out by an atomic counter: who gets which must not depend on the host's threads."""
    call = bound(kernel)
    schedule = Schedule(delivery, seed=5, multiprocessors=4, resident_ctas=3)
    first = launched(kernel, call, schedule)
    for _ in range(4):
        assert_same(launched(kernel, call, schedule), first)
    other = launched(kernel, call, dataclasses.replace(schedule, seed=6))
    assert other[0][0].equal(first[0][0]) and other[1] != first[1], "another seed: the same bits by other steps"


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_clusters_in_flight_together_are_a_function_of_the_schedule(delivery: str) -> None:
    """Two of three clusters together, on threads of their own; the two CTAs of each on one."""
    kernel = EmulatedKernel.build(ROOT / "kernels" / "fwd_multicast.cu")
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn((1, 260, 3, 128), generator=generator).to(torch.bfloat16) for _ in range(3))
    variant = kernel.library.find("multicast", "bf16", 128, False)
    assert variant is not None and "multicast" in variant.flags
    call = BoundForward.of(kernel.library, variant, q, k, v, False, 0.1)
    schedule = Schedule(delivery, seed=5, multiprocessors=6, resident_ctas=2)
    first = launched(kernel, call, schedule)
    assert not first[3]
    assert_same(launched(kernel, call, schedule), first)
    for other in (dataclasses.replace(schedule, seed=6), dataclasses.replace(schedule, multiprocessors=1, checks=FAST)):
        assert launched(kernel, call, other)[0][0].equal(first[0][0])


def test_what_is_counted_depends_on_no_schedule(kernel: EmulatedKernel) -> None:
    call = bound(kernel, causal=False)
    counted = [
        launched(kernel, call, Schedule(delivery, seed=seed, resident_ctas=resident))[2]
        for delivery in DELIVERIES
        for seed, resident in ((1, 1), (2, 2))
    ]
    assert all(one == counted[0] for one in counted)


def test_fast_checks_take_the_same_steps_to_the_same_bits(kernel: EmulatedKernel) -> None:
    call = bound(kernel)
    schedule = Schedule(RANDOM, seed=3, resident_ctas=2)
    full = launched(kernel, call, schedule)
    assert_same(launched(kernel, call, dataclasses.replace(schedule, checks=FAST)), full)


@pytest.mark.parametrize("resident", [1, 2])
def test_a_launch_that_a_hazard_ended_leaves_nothing_behind(kernel: EmulatedKernel, resident: int) -> None:
    call = bound(kernel)
    schedule = Schedule(RANDOM, seed=2, resident_ctas=resident)
    first = launched(kernel, call, schedule)
    ended = 0
    for site in kernel.emulator.sites():
        if site.primitive not in ("mbarrier_try_wait_parity", "wgmma_wait_group", "wgmma_ss") or not site.calls:
            continue
        mutation = "a_start" if site.primitive == "wgmma_ss" else "drop"
        mutated = dataclasses.replace(schedule, mutation=mutation, mutation_site=site.index)
        kernel.emulator.configure(mutated)
        try:
            call.launch()
        except KernelError:
            ended += 1
        assert_same(launched(kernel, call, schedule), first)
    assert ended > 3, "mutations that end a launch are what this is about"
