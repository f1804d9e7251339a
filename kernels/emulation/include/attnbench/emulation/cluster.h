// What a cluster adds: its barrier, addresses of another CTA's shared memory, multicast copies, and the rule that a CTA
// leaves only once nothing of another one can still reach its shared memory (PTX ISA, "barrier.cluster", "mapa",
// "cp.async.bulk.tensor"; CUDA C++ Programming Guide, "Distributed Shared Memory").
#pragma once

#include <attnbench/emulation/barriers.h>
#include <attnbench/emulation/bulk_copy.h>

namespace attnbench::emulation {

inline bool valid_cluster(int grid, int threads, int cluster) {
  if (cluster == 1) return true;
  // Warpgroups are numbered over the cluster, so that no CTA may end within one.
  return cluster > 1 && cluster <= CLUSTER_CTAS && grid % cluster == 0 && cluster * threads <= MAX_THREADS &&
         threads % 128 == 0;
}

inline void reset_member(Cta& c, Member& member) {
  member.alive = c.cta_threads;
  member.register_pool = 0;
  member.register_waiters.clear();
  member.accesses.clear();
  for (NamedBarrier& barrier : member.named) {
    barrier.expected = barrier.arrived = 0;
    barrier.generation = 0;
    barrier.entered.clear(c.agents);
    barrier.left = {};
    barrier.waiters.clear();
    std::memset(barrier.arrivals_of_warp, 0, sizeof barrier.arrivals_of_warp);
  }
}

inline void reset_cluster_barrier(Cta& c) {
  ClusterBarrier& barrier = c.cluster_barrier;
  barrier.arrived = 0;
  barrier.generation = 0;
  barrier.entered.clear(c.agents);
  barrier.left = {};
  barrier.waiters.clear();
}

// ---- the cluster's barrier ----

// Threads that have left are not waited for.
inline void complete_cluster_barrier_if_due() {
  ClusterBarrier& barrier = cta().cluster_barrier;
  if (barrier.arrived == 0 || barrier.arrived < cta().alive) return;
  barrier.arrived = 0;
  ++barrier.generation;
  barrier.left = barrier.entered.snapshot(cta().snapshots);
  wake(barrier.waiters);
}

inline void enter_cluster_barrier(SiteId site) {
  Thread& thread = self();
  ClusterBarrier& barrier = cta().cluster_barrier;
  if (thread.in_cluster_barrier) {
    hazard(Hazard::cluster, site, "arrives at the cluster's barrier again without having waited");
    return;
  }
  release(barrier.entered);
  thread.in_cluster_barrier = true;
  thread.cluster_generation = barrier.generation;
  ++barrier.arrived;
  complete_cluster_barrier_if_due();
}

ATTNBENCH_OUT_OF_LINE void cluster_arrive(Where where) {
  const SiteId site = visit(Primitive::cluster_arrive, where);
  meet(0, site, false);  // .aligned
  if (mutated(site, ATTNBENCH_MUTATION_DROP) || arrived_early(site, 0, 0)) return;
  enter_cluster_barrier(site);
  if (mutated(site, ATTNBENCH_MUTATION_TWICE)) enter_cluster_barrier(site);
}

// What stands for the cluster's barrier among the objects that a warp has waited for.
constexpr int CLUSTER_WAIT = -1 - NAMED_BARRIERS;

ATTNBENCH_OUT_OF_LINE void cluster_wait(Where where) {
  const SiteId site = visit(Primitive::cluster_wait, where);
  before_blocking();
  meet(0, site, false);  // .aligned
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  Thread& thread = self();
  ClusterBarrier& barrier = cta().cluster_barrier;
  if (!thread.in_cluster_barrier) {
    hazard(Hazard::cluster, site, "waits at the cluster's barrier without having arrived");
    return;
  }
  while (barrier.generation == thread.cluster_generation) park(barrier.waiters, {Waiting::cluster, site, 0, 0});
  thread.in_cluster_barrier = false;
  acquire(barrier.left);
  count_wait(WaitKey{CLUSTER_WAIT, barrier.generation});
  after_blocking();
}

// ---- shared memory of another CTA ----

inline int rank_of(uint32_t address) { return static_cast<int>(address / WINDOW_BYTES); }

inline std::string member_name(int rank) { return "CTA " + std::to_string(first_block() + rank); }

ATTNBENCH_OUT_OF_LINE uint32_t map_to_cta(uint32_t address, int rank, Where where) {
  const SiteId site = visit(Primitive::map_to_cta, where);
  if (rank < 0 || rank >= cta().ctas) {
    fatal(Hazard::cluster, site, format("rank %d of a cluster of %d", rank, cta().ctas));
    return address;
  }
  if (rank != self().rank && mutated(site, ATTNBENCH_MUTATION_DROP)) return address;
  return address % WINDOW_BYTES + static_cast<uint32_t>(rank) * WINDOW_BYTES;
}

// False, after a report, where [address, address + bytes) is in no CTA of the cluster, or in one that has left.
inline bool in_cluster(SiteId site, uint32_t address, uint32_t bytes) {
  const int rank = rank_of(address);
  const uint32_t own = address % WINDOW_BYTES;
  if (rank >= cta().ctas || own < SHARED_BASE || own + bytes > cta().shared_end) {
    fatal(Hazard::out_of_bounds, site, format("shared memory 0x%x, in no CTA of the cluster", address));
    return false;
  }
  if (cta().member[rank].alive > 0) return true;
  fatal(Hazard::cluster, site, "reaches into the shared memory of " + member_name(rank) + ", which has left");
  return false;
}

// Remembers what `agent` does to the shared memory of another CTA, which must know of it before it leaves.
inline void reach_into(int rank, Agent agent, uint32_t time, SiteId site) {
  if (rank == self().rank || !launch.checked()) return;
  auto& accesses = cta().member[rank].accesses;
  for (RemoteAccess& known : accesses) {
    if (known.agent != agent) continue;
    known = {agent, time, site};
    return;
  }
  accesses.push_back({agent, time, site});
}

inline void arrive_in_cluster(MBarrier& barrier, SiteId site) {
  reach_into(rank_of(barrier.address), self().agent(), self().time(), site);
  arrive_on(barrier, site);
}

ATTNBENCH_OUT_OF_LINE void mbarrier_arrive_cluster(uint32_t address, Where where) {
  const SiteId site = visit(Primitive::mbarrier_arrive_cluster, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP) || arrived_early(site, static_cast<int>(address), 0)) return;
  if (!in_cluster(site, address, 8)) return;
  MBarrier* barrier = find_barrier(address, site, true);
  if (!barrier) return;
  arrive_in_cluster(*barrier, site);
  if (mutated(site, ATTNBENCH_MUTATION_TWICE)) arrive_in_cluster(*barrier, site);
}

inline void early_arrive(const ArriveRecord& record) {
  ++engine().statistics.mutated;
  const uint32_t address = static_cast<uint32_t>(record.target);
  switch (launch.sites[record.site].primitive) {
    case Primitive::barrier_arrive: enter_named_barrier(record.target, record.threads, record.site); break;
    case Primitive::cluster_arrive: enter_cluster_barrier(record.site); break;
    case Primitive::mbarrier_arrive_cluster:
      if (in_cluster(record.site, address, 8)) {
        if (MBarrier* barrier = find_barrier(address, record.site, true)) arrive_in_cluster(*barrier, record.site);
      }
      break;
    default:
      if (MBarrier* barrier = find_barrier(address, record.site)) arrive_on(*barrier, record.site);
  }
}

// One copy from global memory to the same place of each CTA whose bit is set in `mask`, where it completes on the
// barrier at the same place. Each CTA's arrives by itself.
ATTNBENCH_OUT_OF_LINE void tma_load_multicast_4d(uint32_t destination, const TensorMap* map, uint32_t barrier_address,
                                                 int c0, int c1, int c2, int c3, uint32_t mask, Where where) {
  const SiteId site = visit(Primitive::tma_load_multicast_4d, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_COORDINATE)) ++c1;
  if (mutated(site, ATTNBENCH_MUTATION_LESS)) mask &= mask - 1;
  if (mask >> cta().ctas != 0 || mask == 0) {
    fatal(Hazard::cluster, site, format("mask 0x%x for a cluster of %d CTAs", mask, cta().ctas));
    return;
  }
  if (!find_barrier(barrier_address, site) || !valid_copy(*map, destination, site)) return;
  ++engine().statistics.tma_loads;
  bool counted = true;
  for (int rank = 0; rank < cta().ctas; ++rank) {
    if ((mask >> rank & 1) == 0) continue;
    const uint32_t window = static_cast<uint32_t>(rank) * WINDOW_BYTES;
    const uint32_t there = barrier_address % WINDOW_BYTES + window;
    if (!in_cluster(site, there, 8)) return;
    MBarrier* barrier = find_barrier(there, site, true);
    if (!barrier) return;
    const uint32_t number =
        start_load(*map, destination % WINDOW_BYTES + window, *barrier, {c0, c1, c2, c3}, site, counted);
    reach_into(rank, static_cast<Agent>(LOAD_AGENT + cta().barrier_at[there / 8]), number, site);
    counted = false;
  }
}

// ---- leaving ----

// A thread leaves; with the last one its CTA does. Whatever another CTA has done to its memory must be known to one of
// its threads by then: in another order of events it would come too late.
inline void leave_cluster() {
  Cta& c = cta();
  Thread& thread = self();
  if (thread.in_cluster_barrier && thread.cluster_generation == c.cluster_barrier.generation) {
    --c.cluster_barrier.arrived;
  }
  complete_cluster_barrier_if_due();
  Member& member = c.member[thread.rank];
  if (--member.alive > 0) return;
  const SiteId exit = visit(Primitive::thread_exit, Where{"exit", -1});
  for (const MBarrier& barrier : c.barrier) {
    if (barrier.undelivered.empty() || rank_of(barrier.address) != thread.rank) continue;
    hazard(Hazard::in_flight_at_exit, exit, "TMA loads for " + barrier_text(barrier) + " are still in flight");
  }
  const Thread* const first = &c.thread[static_cast<size_t>(thread.rank * c.cta_threads)];
  for (const RemoteAccess& access : member.accesses) {
    if (std::any_of(first, first + c.cta_threads,
                    [&](const Thread& own) { return own.knowledge.happened(access.agent) >= access.time; })) {
      continue;
    }
    hazard(Hazard::cluster, exit,
           "leaves the cluster, not ordered after " + launch.sites.text(access.site) +
               " of another CTA, which reaches into its shared memory",
           access.site);
  }
}

}  // namespace attnbench::emulation
