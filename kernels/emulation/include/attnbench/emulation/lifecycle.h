// Beginning and end of threads and CTAs: fresh state, and what must not be left behind.
#pragma once

#include <attnbench/emulation/cluster.h>
#include <attnbench/emulation/delivery.h>

namespace attnbench::emulation {

// ---- one thread's life ----

inline void finish_thread() {
  Thread& thread = self();
  const SiteId site = visit(Primitive::thread_exit, Where{"exit", thread.warp()});
  if (!thread.in_flight.empty() || thread.operations != thread.operations_committed) {
    hazard(thread.operations != thread.operations_committed ? Hazard::commit : Hazard::in_flight_at_exit, site,
           "exits with wgmma that were never committed or waited for");
  }
  if (thread.stores) {
    StoreQueue& stores = *thread.stores;
    const uint32_t known = thread.knowledge.bulk_groups;
    if (!stores.open.empty()) {
      hazard(Hazard::bulk_group, site,
             "exits with a bulk store that was never committed: " + launch.sites.text(stores.open[0].site));
    } else if (known < stores.committed) {
      hazard(Hazard::in_flight_at_exit, site, "exits while bulk stores may still read shared memory (no wait_group)");
    }
  }
  thread.finished = true;
  --cta().alive;
  leave_cluster();
}

inline void thread_main() {
  launch.kernel();
  finish_thread();
  switch_out();
  std::abort();  // a finished thread is never resumed
}

// ---- one CTA's life ----

// block: number of the cluster; threads, shared_bytes: of each of its CTAs.
inline void reset_cta(Cta& c, int block, int threads, uint32_t shared_bytes) {
  c.block = block;
  c.ctas = launch.cluster;
  c.cta_threads = threads;
  c.threads = c.ctas * threads;
  c.warps = c.threads / 32;
  c.agents = c.snapshots.used = THREAD_AGENT + c.threads;
  c.shared_end = SHARED_BASE + shared_bytes;
  c.alive = c.threads;
  c.dead = false;
  c.elected_lane = launch.config.delivery == ATTNBENCH_DELIVERY_RANDOM ? static_cast<int>(engine().random.below(32)) : 0;
  c.barrier.clear();
  c.barrier.reserve(MAX_BARRIERS);
  const uint32_t windows = static_cast<uint32_t>(c.ctas - 1) * WINDOW_BYTES;
  c.barrier_at.assign((windows + SHARED_BASE + SHARED_LIMIT_BYTES) / 8 + 2, -1);
  for (int rank = 0; rank < c.ctas; ++rank) reset_member(c, c.member[rank]);
  reset_cluster_barrier(c);
  c.loads.clear();
  c.events.clear();
  c.store_slots.clear();
  forget_accesses(c);
  if (c.arena.size() < windows + SHARED_BASE + SHARED_LIMIT_BYTES + 1024) {
    c.arena.resize(windows + SHARED_BASE + SHARED_LIMIT_BYTES + 1024);
  }
  c.shared = c.arena.data();
  for (uint32_t window = 0; window <= windows; window += WINDOW_BYTES) {
    std::memset(c.shared + window, POISON_BYTE, c.shared_end);
  }
}

inline void reset_threads(Cta& c) {
  SnapshotRef nothing(c.snapshots.make());
  nothing->clocks.clear(c.agents);
  if (!c.stacks || c.stacks->count() < c.threads) c.stacks = std::make_unique<FiberStacks>(c.threads);
  if (static_cast<int>(c.thread.size()) != c.threads) c.thread = std::vector<Thread>(static_cast<size_t>(c.threads));
  c.warp.assign(static_cast<size_t>(c.warps), Warp{});
  c.warpgroup.resize(static_cast<size_t>((c.warps + 3) / 4));
  for (Warpgroup& group : c.warpgroup) group.begin();
  c.accumulators.take_all_back();
  for (int i = 0; i < c.threads; ++i) {
    Thread& thread = c.thread[static_cast<size_t>(i)];
    thread.index = i;
    thread.group = &c.warpgroup[static_cast<size_t>(i / 128)];
    thread.rank = i / c.cta_threads;
    thread.window = static_cast<uint32_t>(thread.rank) * WINDOW_BYTES;
    thread.in_cluster_barrier = false;
    thread.finished = false;
    thread.waiting = {};
    thread.knowledge.begin(nothing, static_cast<Agent>(THREAD_AGENT + i), static_cast<Agent>(WGMMA_AGENT + i / 128));
    thread.rendezvous = 0;
    thread.operations = thread.groups = thread.operations_committed = thread.fences = 0;
    thread.in_flight.clear();
    thread.uses.clear();
    thread.stores.reset();
    thread.blocking_calls = thread.early_done = 0;
    fiber_start(thread.fiber, c.stacks->top(i), thread_main);
  }
  for (Warp& warp : c.warp) {
    warp.ready = 0xffffffffu;
    warp.registers = registers_at_entry(c.cta_threads);
  }
}

inline void check_cta_end() {
  Cta& c = cta();
  const SiteId site = visit(Primitive::thread_exit, Where{"exit", -1});
  for (const MBarrier& barrier : c.barrier) {
    if (barrier.undelivered.empty() && barrier.transaction_bytes != 0) {
      hazard(Hazard::mbarrier, site,
             barrier_text(barrier) +
                 format(" is left with %lld transaction bytes", static_cast<long long>(barrier.transaction_bytes)));
    }
  }
  for (int at = 0; at < c.ctas * NAMED_BARRIERS; ++at) {
    const int id = at % NAMED_BARRIERS;
    const NamedBarrier& barrier = c.member[at / NAMED_BARRIERS].named[id];
    if (barrier.arrived != 0) {
      hazard(Hazard::named_barrier, barrier.first_site,
             format("barrier %d is left with %d of %d threads", id, barrier.arrived, barrier.expected));
    }
  }
  for (size_t i = 0; i < c.warp.size(); ++i) {
    if (c.warp[i].registers != c.warp[i / 4 * 4].registers) {
      hazard(Hazard::registers, site,
             format("warps of warpgroup %d end with different register counts", static_cast<int>(i / 4)));
    }
  }
}

}  // namespace attnbench::emulation
