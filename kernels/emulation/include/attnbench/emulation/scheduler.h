// Runs a grid: chooses among CTAs, warps and lanes.
#pragma once

#include <attnbench/emulation/deadlock.h>

namespace attnbench::emulation {

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
  if (preference == Preference::none || engine.random.below(4) == 0)
    return ready[engine.random.below(static_cast<uint32_t>(count))];
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
