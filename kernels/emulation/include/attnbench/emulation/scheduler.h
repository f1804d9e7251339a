// Runs a grid: picks warps, delivers asynchronous work, recognizes deadlock, and checks what is left at a CTA's end.
#pragma once

#include <attnbench/emulation/bulk_copy.h>
#include <attnbench/emulation/wgmma.h>

namespace attnbench::emulation {

inline void execute(const Event& event) {
  Cta& c = cta();
  switch (event.what) {
    case Event::load: deliver_load(c.loads[static_cast<size_t>(event.index)]); break;
    case Event::wgmma_group: deliver_group(c.warpgroup[static_cast<size_t>(event.index)]); break;
    case Event::store_read: deliver_store_read(c.thread[static_cast<size_t>(event.index)]); break;
    case Event::store_write: deliver_store_write(c.thread[static_cast<size_t>(event.index)]); break;
  }
}

inline void execute_event(size_t index) {
  Cta& c = cta();
  const Event event = c.events[index];
  c.events[index] = c.events.back();
  c.events.pop_back();
  execute(event);
}

// Delivers what is due; with `idle` (no thread can run) one more, whichever the schedule likes.
inline bool deliver(bool idle) {
  Cta& c = cta();
  bool any = false;
  if (engine.config.delivery != ATTNBENCH_DELIVERY_LAZY) {
    for (size_t i = 0; i < c.events.size();) {
      if (c.events[i].due > engine.step) {
        ++i;
        continue;
      }
      execute_event(i);
      any = true;
    }
  }
  if (!any && idle && !c.events.empty()) {
    execute_event(engine.random.below(static_cast<uint32_t>(c.events.size())));
    any = true;
  }
  return any;
}

// ---- one thread's life ----

inline void finish_thread() {
  Thread& thread = self();
  const SiteId site = engine.sites.visit(Primitive::thread_exit, Where{"exit", thread.warp()});
  if (!thread.in_flight.empty() || thread.operations != thread.operations_committed) {
    hazard(thread.operations != thread.operations_committed ? Hazard::commit : Hazard::in_flight_at_exit, site,
           "exits with wgmma that were never committed or waited for");
  }
  if (thread.stores) {
    StoreQueue& stores = *thread.stores;
    const uint32_t known = thread.knowledge.happened.time[STORE_AGENT + stores.slot];
    if (!stores.open.empty()) {
      hazard(Hazard::bulk_group, site, "exits with a bulk store that was never committed: " + engine.sites.text(stores.open[0].site));
    } else if (known < stores.committed) {
      hazard(Hazard::in_flight_at_exit, site, "exits while bulk stores may still read shared memory (no wait_group)");
    }
  }
  thread.finished = true;
  --cta().alive;
}

inline void thread_main() {
  engine.kernel();
  finish_thread();
  switch_out();
  std::abort();  // a finished thread is never resumed
}

// ---- one CTA's life ----

inline void reset_cta(Cta& c, int block, int threads, uint32_t shared_bytes) {
  c.block = block;
  c.threads = threads;
  c.warps = threads / 32;
  c.agents = THREAD_AGENT + threads;
  c.shared_end = SHARED_BASE + shared_bytes;
  c.alive = threads;
  c.dead = false;
  c.register_pool = 0;
  c.elected_lane = engine.config.delivery == ATTNBENCH_DELIVERY_RANDOM ? static_cast<int>(engine.random.below(32)) : 0;
  c.barrier.clear();
  c.barrier.reserve(MAX_BARRIERS);
  c.barrier_at.assign((SHARED_BASE + SHARED_LIMIT_BYTES) / 8 + 2, -1);
  for (NamedBarrier& barrier : c.named) {
    barrier.expected = barrier.arrived = 0;
    barrier.generation = 0;
    barrier.entered.clear(c.agents);
    barrier.left.clear(c.agents);
    barrier.waiters.clear();
    std::memset(barrier.arrivals_of_warp, 0, sizeof barrier.arrivals_of_warp);
  }
  c.loads.clear();
  c.events.clear();
  c.store_slots.clear();
  c.register_waiters.clear();
  c.granule.resize(GRANULES);
  for (Granule& granule : c.granule) {
    granule.writers.clear();
    granule.readers.clear();
  }
  if (c.arena.empty()) c.arena.resize(SHARED_BASE + SHARED_LIMIT_BYTES + 1024);
  // Shared addresses and host addresses agree modulo 1024 is not needed: every access goes through an offset.
  c.shared = c.arena.data();
  std::memset(c.shared, POISON_BYTE, c.shared_end);
}

inline void reset_threads(Cta& c) {
  if (!c.stacks || c.stacks->count() < c.threads) c.stacks = std::make_unique<FiberStacks>(c.threads);
  if (static_cast<int>(c.thread.size()) != c.threads) c.thread = std::vector<Thread>(static_cast<size_t>(c.threads));
  c.warp.assign(static_cast<size_t>(c.warps), Warp{});
  c.warpgroup.assign(static_cast<size_t>((c.warps + 3) / 4), Warpgroup{});
  for (int i = 0; i < c.threads; ++i) {
    Thread& thread = c.thread[static_cast<size_t>(i)];
    thread.index = i;
    thread.finished = false;
    thread.waiting = {};
    thread.knowledge.clear(c.agents);
    thread.time() = 1;
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
    warp.registers = registers_at_entry(c.threads);
  }
}

inline void check_cta_end() {
  Cta& c = cta();
  const SiteId site = engine.sites.visit(Primitive::thread_exit, Where{"exit", -1});
  for (const MBarrier& barrier : c.barrier) {
    if (!barrier.undelivered.empty()) {
      hazard(Hazard::in_flight_at_exit, site, "TMA loads for " + barrier_text(barrier) + " are still in flight");
    } else if (barrier.transaction_bytes != 0) {
      hazard(Hazard::mbarrier, site, barrier_text(barrier) + format(" is left with %lld transaction bytes", static_cast<long long>(barrier.transaction_bytes)));
    }
  }
  for (int id = 0; id < NAMED_BARRIERS; ++id) {
    const NamedBarrier& barrier = c.named[id];
    if (barrier.arrived != 0) {
      hazard(Hazard::named_barrier, barrier.first_site, format("barrier %d is left with %d of %d threads", id, barrier.arrived, barrier.expected));
    }
  }
  for (size_t i = 0; i < c.warp.size(); ++i) {
    if (c.warp[i].registers != c.warp[i / 4 * 4].registers) {
      hazard(Hazard::registers, site, format("warps of warpgroup %d end with different register counts", static_cast<int>(i / 4)));
    }
  }
}

// ---- deadlock ----

inline std::string waiting_text(const Waiting& waiting) {
  const std::string at = engine.sites.text(waiting.site);
  switch (waiting.what) {
    case Waiting::mbarrier: {
      const MBarrier& barrier = cta().barrier[static_cast<size_t>(waiting.object)];
      return at + " waits for " + barrier_text(barrier) +
             format(" parity %d: in phase %u, %u of %u arrivals missing, %lld bytes missing", waiting.detail, barrier.phase,
                    barrier.pending, barrier.count, static_cast<long long>(barrier.transaction_bytes));
    }
    case Waiting::named_barrier:
      return at + format(" waits at barrier %d: %d of %d threads", waiting.object, cta().named[waiting.object].arrived, waiting.detail);
    case Waiting::wgmma: return at + format(" waits for wgmma group %d", waiting.object);
    case Waiting::bulk_group: return at + format(" waits for bulk group %d", waiting.object);
    case Waiting::warp: return at + " waits for other lanes of its warp";
    case Waiting::registers: return at + format(" waits for %d registers, %d are free", waiting.object, cta().register_pool);
    case Waiting::nothing: break;
  }
  return at;
}

inline void report_deadlock() {
  Cta& c = cta();
  std::string text = format("%d threads blocked.", c.alive);
  std::string last;
  SiteId site = 0;
  bool first = true;
  for (const Thread& thread : c.thread) {
    if (thread.finished) continue;
    const std::string why = waiting_text(thread.waiting);
    if (first) site = thread.waiting.site;
    first = false;
    if (why == last) continue;
    if (text.size() < 1200) text += " Warp " + std::to_string(thread.warp()) + ": " + why + ".";
    last = why;
  }
  hazard(Hazard::deadlock, site, text);
  c.dead = true;
}

// ---- scheduling ----

// Runs the lanes of a warp that are ready now, each until it blocks.
inline void run_warp(int index, bool backwards) {
  Cta& c = cta();
  Warp& warp = c.warp[static_cast<size_t>(index)];
  uint32_t lanes = warp.ready;
  ++engine.statistics.steps;
  ++engine.step;
  while (lanes != 0 && !engine.stop && !c.dead) {
    const int lane = backwards ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes);
    lanes &= ~(1u << lane);
    warp.ready &= ~(1u << lane);
    Thread& thread = c.thread[static_cast<size_t>(index * 32 + lane)];
    engine.thread = &thread;
    ++engine.statistics.switches;
    fiber_switch(engine.scheduler, thread.fiber);
    engine.thread = nullptr;
  }
}

// Warp orders a seed chooses from: any order, low warps first, high warps first.
enum class Preference { none, low, high };

inline int pick_warp(const Cta& c, Preference preference) {
  int ready[MAX_THREADS / 32], count = 0;
  for (int i = 0; i < c.warps; ++i) {
    if (c.warp[static_cast<size_t>(i)].ready) ready[count++] = i;
  }
  if (count == 0) return -1;
  // One step in four departs from the preference, so that no warp is starved in lockstep.
  if (preference == Preference::none || engine.random.below(4) == 0) return ready[engine.random.below(static_cast<uint32_t>(count))];
  return preference == Preference::low ? ready[0] : ready[count - 1];
}

// Runs one step of the current CTA; false where it can do nothing.
inline bool step_cta(Preference preference, bool backwards) {
  Cta& c = cta();
  deliver(false);
  const int warp = pick_warp(c, preference);
  if (warp >= 0) {
    run_warp(warp, backwards);
    return true;
  }
  return c.alive > 0 && deliver(true);
}

// A run of this many steps has lost its way: some hundred times what the largest test case takes.
constexpr uint64_t DEFAULT_STEP_LIMIT = 200u * 1000 * 1000;

inline void run_grid(int grid, int threads, uint32_t shared_bytes) {
  const int resident = std::min(grid, std::max(engine.config.resident_ctas, 1));
  const auto preference = static_cast<Preference>(engine.random.below(3));
  const bool backwards = engine.random.below(2) != 0;
  const uint64_t limit = engine.config.step_limit ? engine.config.step_limit : DEFAULT_STEP_LIMIT;
  while (static_cast<int>(engine.slots.size()) < resident) engine.slots.push_back(std::make_unique<Cta>());
  std::vector<Cta*> running;
  int next = 0;
  auto start = [&](Cta* c) {
    engine.cta = c;
    reset_cta(*c, next++, threads, shared_bytes);
    reset_threads(*c);
  };
  for (int i = 0; i < resident; ++i) {
    running.push_back(engine.slots[static_cast<size_t>(i)].get());
    start(running.back());
  }
  while (!running.empty() && !engine.stop) {
    const size_t chosen = running.size() == 1 ? 0 : engine.random.below(static_cast<uint32_t>(running.size()));
    engine.cta = running[chosen];
    if (!step_cta(preference, backwards) && cta().alive > 0 && !cta().dead) report_deadlock();
    if (engine.step > limit && !engine.stop) {
      hazard(Hazard::runaway, engine.sites.visit(Primitive::thread_exit, Where{"exit", -1}), "step limit reached");
      return;
    }
    if (cta().dead) return;
    if (cta().alive > 0) continue;
    if (!engine.stop) {
      check_cta_end();
      while (deliver(true)) {
      }
    }
    if (next < grid) {
      start(running[chosen]);
    } else {
      running.erase(running.begin() + static_cast<long>(chosen));
    }
  }
}

inline void prepare_mutation() {
  engine.early.clear();
  if (engine.config.mutation == ATTNBENCH_MUTATION_NONE) {
    engine.arrives.clear();
    return;
  }
  if (engine.config.mutation != ATTNBENCH_MUTATION_EARLY) return;
  for (const ArriveRecord& record : engine.arrives) {
    if (record.site == engine.config.mutation_site && record.blocking_calls > 0) {
      engine.early[early_key(record.block, record.thread, record.blocking_calls)].push_back(record);
    }
  }
}

// Runs `kernel` in every thread of the grid. Returns the first hazard's kind, 0 where there is none.
inline int run(std::function<void()> kernel, int grid, int threads, int shared_bytes) {
  engine.report.clear();
  engine.statistics = {};
  engine.random = Random(engine.config.seed);
  engine.step = 0;
  engine.stop = false;
  engine.grid = grid;
  engine.kernel = std::move(kernel);
  prepare_mutation();
  const bool valid = grid > 0 && threads > 0 && threads <= MAX_THREADS && threads % 32 == 0 && shared_bytes >= 0 &&
                     static_cast<uint32_t>(shared_bytes) <= SHARED_LIMIT_BYTES;
  if (!valid) return static_cast<int>(Hazard::launch);
  run_grid(grid, threads, static_cast<uint32_t>(shared_bytes));
  engine.thread = nullptr;
  return static_cast<int>(engine.report.first());
}

}  // namespace attnbench::emulation
