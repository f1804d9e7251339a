// mbarriers (PTX ISA, "mbarrier"): phases, pending arrivals, transaction bytes.
#pragma once

#include <attnbench/emulation/shared_memory.h>

namespace attnbench::emulation {

// The barrier at `address`, or null after a report. remote: an address that is known to lie in a CTA of the cluster.
inline MBarrier* find_barrier(uint32_t address, SiteId site, bool remote = false) {
  Cta& c = cta();
  if (address % 8 != 0) {
    fatal(Hazard::mbarrier, site, format("address 0x%x is not 8-byte aligned", address));
    return nullptr;
  }
  if (!remote && !in_bounds(site, address, 8)) return nullptr;
  const int index = c.barrier_at[address / 8];
  if (index < 0) {
    fatal(Hazard::mbarrier, site, format("no mbarrier was initialized at 0x%x", address));
    return nullptr;
  }
  MBarrier& barrier = c.barrier[static_cast<size_t>(index)];
  if (engine().thread && launch.checked() && self().knowledge.happened(barrier.initializer) < barrier.init_time) {
    hazard(Hazard::race, site,
           "uses " + barrier_text(barrier) + ", not ordered after its initialization (" +
               launch.sites.place(barrier.init_site) + ")",
           barrier.init_site);
  }
  return &barrier;
}

ATTNBENCH_OUT_OF_LINE void mbarrier_init(uint32_t address, uint32_t count, Where where) {
  const SiteId site = visit(Primitive::mbarrier_init, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_LESS)) --count;
  if (mutated(site, ATTNBENCH_MUTATION_MORE)) ++count;
  Cta& c = cta();
  if (address % 8 != 0 || count == 0) {
    hazard(Hazard::mbarrier, site, format("address 0x%x (8-byte aligned?), count %u (above 0?)", address, count));
    return;
  }
  if (!in_bounds(site, address, 8)) return;
  if (c.barrier_at[address / 8] >= 0) {
    hazard(Hazard::mbarrier, site, format("initializes 0x%x again without mbarrier.inval", address));
    return;
  }
  if (c.barrier.size() == MAX_BARRIERS) {
    fatal(Hazard::launch, site, format("more than %d mbarriers: raise MAX_BARRIERS", MAX_BARRIERS));
    return;
  }
  Thread& thread = self();
  c.barrier_at[address / 8] = static_cast<int16_t>(c.barrier.size());
  c.barrier.emplace_back();
  MBarrier& barrier = c.barrier.back();
  barrier.address = address;
  barrier.count = barrier.pending = count;
  barrier.initializer = thread.agent();
  barrier.init_time = thread.time();
  barrier.init_site = site;
  barrier.arrived.clear(c.agents);
  c.blocks[address / BLOCK_BYTES].barriers |= granule_bit(address);
}

// fence.mbarrier_init and fence.proxy.async both make an initialization visible to the TMA unit here.
ATTNBENCH_OUT_OF_LINE void fence_mbarrier_init(Where where) {
  const SiteId site = visit(Primitive::fence_mbarrier_init, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  Thread& thread = self();
  if (launch.checked()) thread.knowledge.fence();
}

inline void complete_phase_if_due(MBarrier& barrier) {
  if (barrier.pending != 0 || barrier.transaction_bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.count;
  barrier.completed = barrier.arrived.snapshot(cta().snapshots);
  wake(barrier.waiters);
}

inline void arrive_on(MBarrier& barrier, SiteId site) {
  if (barrier.pending == 0) {
    hazard(Hazard::mbarrier, site,
           "arrives on " + barrier_text(barrier) +
               format(", which has all its %u arrivals of phase %u", barrier.count, barrier.phase));
    return;
  }
  release(barrier.arrived);
  --barrier.pending;
  complete_phase_if_due(barrier);
}

ATTNBENCH_OUT_OF_LINE void mbarrier_arrive(uint32_t address, Where where) {
  const SiteId site = visit(Primitive::mbarrier_arrive, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP) || arrived_early(site, static_cast<int>(address), 0)) return;
  MBarrier* barrier = find_barrier(address, site);
  if (!barrier) return;
  arrive_on(*barrier, site);
  if (mutated(site, ATTNBENCH_MUTATION_TWICE)) arrive_on(*barrier, site);
}

ATTNBENCH_OUT_OF_LINE void mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes, Where where) {
  const SiteId site = visit(Primitive::mbarrier_arrive_expect_tx, where);
  MBarrier* barrier = find_barrier(address, site);
  if (!barrier) return;
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) bytes = 0;
  if (mutated(site, ATTNBENCH_MUTATION_LESS)) bytes /= 2;
  if (mutated(site, ATTNBENCH_MUTATION_MORE)) bytes *= 2;
  barrier->transaction_bytes += bytes;
  arrive_on(*barrier, site);
}

// How often a try_wait that could go on is made to fail: the instruction may return false at any time.
constexpr uint32_t SPURIOUS_ONE_IN = 6;

ATTNBENCH_OUT_OF_LINE bool mbarrier_try_wait_parity(uint32_t address, uint32_t parity, Where where) {
  const SiteId site = visit(Primitive::mbarrier_try_wait_parity, where);
  before_blocking();
  MBarrier* barrier = find_barrier(address, site);
  if (!barrier) return true;
  if (parity > 1) hazard(Hazard::mbarrier, site, format("parity %u is neither 0 nor 1", parity));
  if (mutated(site, ATTNBENCH_MUTATION_FLIP_PARITY)) parity ^= 1;
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return true;
  if (engine().random.below(SPURIOUS_ONE_IN) == 0) {
    ++engine().statistics.spurious;
    yield();
    return false;
  }
  barrier->last_wait_site = site;
  if ((barrier->phase & 1) == parity) {
    park(barrier->waiters, {Waiting::mbarrier, site, cta().barrier_at[address / 8], static_cast<int>(parity)});
    if ((barrier->phase & 1) == parity) return false;
  }
  acquire(barrier->completed);
  count_wait(WaitKey{cta().barrier_at[address / 8], barrier->phase});
  after_blocking();
  return true;
}

ATTNBENCH_OUT_OF_LINE void name_barrier(uint32_t address, const char* name, int stage) {
  const int index = address % 8 == 0 && address / 8 < cta().barrier_at.size() ? cta().barrier_at[address / 8] : -1;
  if (index < 0) return;
  cta().barrier[static_cast<size_t>(index)].name = name;
  cta().barrier[static_cast<size_t>(index)].stage = stage;
}

}  // namespace attnbench::emulation
