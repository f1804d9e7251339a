// Runs a grid: CTAs in flight together on threads of the host; within a CTA chooses among warps and lanes.
#pragma once

#include <attnbench/emulation/deadlock.h>

#include <thread>

namespace attnbench::emulation {

// Runs the lanes of a warp that are ready now, each until it blocks; each hands over to the next (switch_out).
inline void run_warp(int index) {
  Engine& own = engine();
  ++own.statistics.steps;
  ++own.step;
  own.lanes = own.cta.warp[static_cast<size_t>(index)].ready;
  own.thread = &next_lane(index);
  fiber_switch(own.scheduler, own.thread->fiber);
  own.thread = nullptr;
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
  if (preference == Preference::none || engine().random.below(4) == 0)
    return ready[engine().random.below(static_cast<uint32_t>(count))];
  return preference == Preference::low ? ready[0] : ready[count - 1];
}

// Runs one step of the current CTA; false where it can do nothing.
inline bool step_cta(Preference preference) {
  Cta& c = cta();
  deliver(false);
  const int warp = pick_warp(c, preference);
  if (warp >= 0) {
    run_warp(warp);
    return true;
  }
  return c.alive > 0 && deliver(true);
}

// A run of this many steps has lost its way: some hundred times what the largest test case takes.
constexpr uint64_t DEFAULT_STEP_LIMIT = 200u * 1000 * 1000;

// Starts the engine's next CTA or cluster, if there is one: with n engines every n-th is its own.
inline bool start_cta(int block, int threads, uint32_t shared_bytes) {
  if (block >= launch.grid / launch.cluster) return false;
  reset_cta(cta(), block, threads, shared_bytes);
  reset_threads(cta());
  return true;
}

// Runs the engine's CTAs one after another.
inline void run_ctas(int threads, uint32_t shared_bytes) {
  Engine& own = engine();
  const auto preference = static_cast<Preference>(own.random.below(3));
  own.backwards = own.random.below(2) != 0;
  const uint64_t limit = launch.config.step_limit ? launch.config.step_limit : DEFAULT_STEP_LIMIT;
  for (int block = own.slot; start_cta(block, threads, shared_bytes); block += launch.running) {
    while (cta().alive > 0) {
      launch.time.reach(own.slot, own.step);
      if (!step_cta(preference) && cta().alive > 0 && !cta().dead) report_deadlock();
      if (own.step > limit && !own.stop) {
        hazard(Hazard::runaway, visit(Primitive::thread_exit, Where{"exit", -1}), "step limit reached");
        return;
      }
      if (cta().dead || own.stop || launch.time.stopped(own.step)) return;
    }
    check_cta_end();
    while (deliver(true)) {
    }
    if (own.stop) return;
  }
}

inline void run_engine(Engine& own, int threads, uint32_t shared_bytes) {
  own_engine = &own;
  run_ctas(threads, shared_bytes);
  own.thread = nullptr;
  launch.time.end(own.slot);
  own_engine = nullptr;
}

inline void prepare_mutation() {
  launch.early.clear();
  if (launch.config.mutation != ATTNBENCH_MUTATION_EARLY) return;
  for (const ArriveRecord& record : launch.arrives) {
    if (record.site == launch.config.mutation_site && record.blocking_calls > 0) {
      launch.early[early_key(record.block, record.thread, record.blocking_calls)].push_back(record);
    }
  }
}

inline void prepare_engine(Engine& own, int slot) {
  own.slot = slot;
  own.statistics = {};
  own.counted = {};
  own.report.clear();
  own.random = Random(launch.config.seed + static_cast<uint64_t>(slot) * 0xd1342543de82ef95ull);
  own.step = 0;
  own.stop = false;
  own.lanes = 0;
  own.arrives.clear();
  own.touched.clear();  // NOTE: a launch that a hazard ended may have left it half used
  std::fill(own.calls.begin(), own.calls.end(), 0);
}

// What the engines have found and counted becomes the launch's.
inline void collect() {
  launch.statistics = {};
  launch.counted = {};
  launch.report.clear();
  if (launch.config.mutation == ATTNBENCH_MUTATION_NONE) launch.arrives.clear();
  for (int slot = 0; slot < launch.running; ++slot) {
    const Engine& own = *launch.engines[static_cast<size_t>(slot)];
    add_counters(launch.statistics, own.statistics);
    launch.counted.add(own.counted);
    launch.report.merge(own.report, launch.config.stop_at_first);
    launch.arrives.insert(launch.arrives.end(), own.arrives.begin(), own.arrives.end());
    for (size_t site = 0; site < launch.sites.size(); ++site) {
      launch.sites.count(static_cast<SiteId>(site), own.calls[site]);
    }
  }
}

// Runs `kernel` in every thread of the grid, whose CTAs form clusters of `cluster`. Returns the first hazard's kind, 0
// where there is none.
inline int run(std::function<void()> kernel, int grid, int threads, int shared_bytes, int cluster = 1) {
  launch.grid = grid;
  launch.cluster = cluster;
  launch.kernel = std::move(kernel);
  const bool valid = grid > 0 && threads > 0 && threads <= MAX_THREADS && threads % 32 == 0 && shared_bytes >= 0 &&
                     static_cast<uint32_t>(shared_bytes) <= SHARED_LIMIT_BYTES && valid_cluster(grid, threads, cluster);
  launch.running = valid ? std::min(grid / cluster, std::max(launch.config.resident_ctas, 1)) : 0;
  prepare_mutation();
  while (static_cast<int>(launch.engines.size()) < launch.running) launch.engines.push_back(std::make_unique<Engine>());
  for (int slot = 0; slot < launch.running; ++slot) prepare_engine(*launch.engines[static_cast<size_t>(slot)], slot);
  launch.time.begin(launch.running);
  std::vector<std::thread> others;
  for (int slot = 1; slot < launch.running; ++slot) {
    others.emplace_back(
        [=] { run_engine(*launch.engines[static_cast<size_t>(slot)], threads, static_cast<uint32_t>(shared_bytes)); });
  }
  if (valid) run_engine(*launch.engines[0], threads, static_cast<uint32_t>(shared_bytes));
  for (std::thread& other : others) other.join();
  collect();
  return valid ? static_cast<int>(launch.report.first()) : static_cast<int>(Hazard::launch);
}

}  // namespace attnbench::emulation
