// The engine: which thread runs, what a hazard does, and the delivery of asynchronous work.
#pragma once

#include <attnbench/emulation/cta.h>

#include <functional>
#include <unordered_map>

namespace attnbench::emulation {

// An arrive seen in an unmutated run, so that a mutation can move it before the blocking call that precedes it.
struct ArriveRecord {
  SiteId site;
  int block, thread;
  uint32_t blocking_calls;
  int target;   // mbarrier address or named barrier number
  int threads;  // of a named barrier
};

struct Engine {
  AttnbenchEmulationConfig config = {sizeof(AttnbenchEmulationConfig), ATTNBENCH_DELIVERY_LAZY, 0, 2, 1, 0, 0, 0, 0, 0};
  AttnbenchEmulationStatistics statistics = {};
  Sites sites;
  Report report;
  Random random;
  Fiber scheduler;
  Cta* cta = nullptr;
  Thread* thread = nullptr;  // the one that runs; null in the scheduler
  bool stop = false;
  uint64_t step = 0;
  int grid = 0;
  std::function<void()> kernel;  // called once by each thread
  std::vector<std::unique_ptr<Cta>> slots;
  std::vector<ArriveRecord> arrives;
  std::unordered_map<uint64_t, std::vector<ArriveRecord>> early;

  bool mutated(SiteId site, int kind) {
    if (config.mutation != kind || config.mutation_site != site) return false;
    ++statistics.mutated;
    return true;
  }
};

inline Engine engine;

inline Cta& cta() { return *engine.cta; }
inline Thread& self() { return *engine.thread; }
inline Warpgroup& own_warpgroup() { return cta().warpgroup[static_cast<size_t>(self().warpgroup())]; }

inline std::string warp_text(int warp) {
  return "CTA " + std::to_string(cta().block) + " warp " + std::to_string(warp);
}

inline std::string barrier_text(const MBarrier& barrier) {
  return barrier.name ? format("%s[%d]", barrier.name, barrier.stage) : format("mbarrier 0x%x", barrier.address);
}

// ---- leaving and resuming threads ----

inline void make_ready(Thread& thread) { cta().warp[static_cast<size_t>(thread.warp())].ready |= 1u << thread.lane(); }

// Gives the processor back; the thread resumes once it is ready again.
inline void switch_out() {
  Thread& thread = self();
  fiber_switch(thread.fiber, engine.scheduler);
}

inline void yield() {
  make_ready(self());
  switch_out();
}

inline void park(WaitList& list, const Waiting& waiting) {
  Thread& thread = self();
  thread.waiting = waiting;
  list.push_back(&thread);
  switch_out();
  thread.waiting = {};
}

inline void wake(WaitList& list) {
  for (Thread* thread : list) make_ready(*thread);
  list.clear();
}

// ---- hazards ----

// Records a hazard. With stop_at_first the launch ends here: a thread that reports does not return.
ATTNBENCH_OUT_OF_LINE void hazard(Hazard kind, SiteId site, const std::string& text, int other_site = -1) {
  const std::string who = engine.thread ? warp_text(engine.thread->warp()) : "CTA " + std::to_string(cta().block);
  engine.report.add(kind, site, other_site, engine.sites.place(site),
                    std::string(name_of(engine.sites[site].primitive)) + " by " + who + ": " + text);
  if (!engine.config.stop_at_first) return;
  engine.stop = true;
  if (engine.thread) switch_out();
}

// A hazard after which the CTA cannot go on.
ATTNBENCH_OUT_OF_LINE void fatal(Hazard kind, SiteId site, const std::string& text) {
  hazard(kind, site, text);
  cta().dead = true;
  if (engine.thread) switch_out();
}

// ---- synchronization ----

inline void release(Gathering& target) {
  Thread& thread = self();
  target.add(thread.knowledge, cta().agents);
  ++thread.time();
}

inline void acquire(const SnapshotRef& source) {
  if (source.get()) self().knowledge.learn(source);
}

// ---- early arrival (a mutation) ----

inline uint64_t early_key(int block, int thread, uint32_t calls) {
  return static_cast<uint64_t>(block) << 42 | static_cast<uint64_t>(thread) << 32 | calls;
}

inline void early_arrive(const ArriveRecord& record);

// Every blocking primitive starts with this: a moved arrive happens now, before the wait.
inline void before_blocking() {
  if (engine.early.empty()) return;
  Thread& thread = self();
  const uint32_t next = thread.blocking_calls + 1;
  if (thread.early_done == next) return;
  const auto found = engine.early.find(early_key(cta().block, thread.index, next));
  if (found == engine.early.end()) return;
  thread.early_done = next;
  for (const ArriveRecord& record : found->second) early_arrive(record);
}

inline void after_blocking() { ++self().blocking_calls; }

// True where the arrive at `site` has already happened early. Otherwise, in an unmutated run, remembers it.
inline bool arrived_early(SiteId site, int target, int threads) {
  Thread& thread = self();
  if (engine.config.mutation == ATTNBENCH_MUTATION_NONE) {
    constexpr size_t LIMIT = 1u << 20;  // beyond it the later arrives of a long run are not offered for mutation
    if (engine.arrives.size() < LIMIT) {
      engine.arrives.push_back({site, cta().block, thread.index, thread.blocking_calls, target, threads});
    }
    return false;
  }
  if (engine.config.mutation != ATTNBENCH_MUTATION_EARLY || engine.config.mutation_site != site) return false;
  return engine.early.count(early_key(cta().block, thread.index, thread.blocking_calls)) != 0;
}

// ---- asynchronous work ----

inline void execute(const Event& event);  // delivery.h

// Longest delay of a random delivery, in scheduler steps: a few main-loop iterations of a CTA.
constexpr uint32_t LONGEST_DELAY_STEPS = 400;

// Hands work to the asynchronous units. Eager delivery executes it here.
inline void post(Event::What what, int index) {
  Event event{what, index, engine.step};
  if (engine.config.delivery == ATTNBENCH_DELIVERY_EAGER) {
    execute(event);
    return;
  }
  if (engine.config.delivery == ATTNBENCH_DELIVERY_RANDOM) event.due += engine.random.below(LONGEST_DELAY_STEPS);
  cta().events.push_back(event);
}

}  // namespace attnbench::emulation
