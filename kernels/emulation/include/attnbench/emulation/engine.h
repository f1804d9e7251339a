// The engine: which thread runs, what a hazard does, and the delivery of asynchronous work.
#pragma once

#include <attnbench/emulation/counted.h>
#include <attnbench/emulation/cta.h>
#include <attnbench/emulation/logical_time.h>

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

struct Operands;  // tensor_core.h

// What runs CTAs one after another: all there is of the emulation but what launches and CTAs in flight together share.
struct Engine {
  int slot = 0;  // among those of a launch
  AttnbenchEmulationStatistics statistics = {};
  Counted counted;
  Report report;
  Random random;
  Fiber scheduler;
  Cta cta;
  Thread* thread = nullptr;  // the one that runs; null in the scheduler
  uint32_t lanes = 0;        // of its warp, that run after it in this step
  bool backwards = false;    // high lanes run first
  bool stop = false;
  uint64_t step = 0;
  struct KnownSite {
    Where where = {nullptr, 0};
    Primitive primitive = Primitive::thread_exit;
    SiteId site = 0;
  };
  static constexpr size_t KNOWN_SITES = 256;  // a power of two
  KnownSite known_site[KNOWN_SITES];
  std::vector<uint64_t> calls = std::vector<uint64_t>(Sites::MOST);  // by call site, in this launch
  std::vector<ArriveRecord> arrives;
  std::shared_ptr<Operands> operands;  // what the tensor core has gathered
  GranuleSet touched;
  Gathering joint;
};

// What the engines of a launch share. Written before they start and after they end, but for what is atomic.
struct Launch {
  AttnbenchEmulationConfig config = {sizeof(AttnbenchEmulationConfig), ATTNBENCH_DELIVERY_LAZY, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0};
  Sites sites;
  int grid = 0;     // CTAs
  int cluster = 1;  // CTAs of a cluster
  std::function<void()> kernel;  // called once by each thread
  std::unordered_map<uint64_t, std::vector<ArriveRecord>> early;
  std::vector<std::unique_ptr<Engine>> engines;
  int running = 0;  // engines of this launch
  LogicalTime time;

  // Of the last launch.
  AttnbenchEmulationStatistics statistics = {};
  Counted counted;
  Report report;
  std::vector<ArriveRecord> arrives;

  bool checked() const { return config.checks == ATTNBENCH_CHECKS_FULL; }
};

inline Launch launch;

// NOTE: initial-exec, a pointer and nothing else: the other models call into the C library at every use.
inline thread_local Engine* own_engine __attribute__((tls_model("initial-exec"))) = nullptr;
inline Engine& engine() { return *own_engine; }

ATTNBENCH_OUT_OF_LINE void look_up(Engine::KnownSite& known, Primitive primitive, Where where) {
  known = {where, primitive, launch.sites.find(primitive, where)};
}

// The calls of a kernel's loop come from a few dozen places.
inline SiteId visit(Primitive primitive, Where where) {
  Engine& own = engine();
  const size_t place = static_cast<size_t>(where.line) * 31 + static_cast<size_t>(primitive);
  Engine::KnownSite& known = own.known_site[place % Engine::KNOWN_SITES];
  if (known.where.line != where.line || known.where.file != where.file || known.primitive != primitive) {
    look_up(known, primitive, where);
  }
  ++own.calls[known.site];
  return known.site;
}

inline bool mutated(SiteId site, int kind) {
  if (launch.config.mutation != kind || launch.config.mutation_site != site) return false;
  ++engine().statistics.mutated;
  return true;
}

inline Cta& cta() { return engine().cta; }
inline Thread& self() { return *engine().thread; }
inline Member& own_member() { return cta().member[self().rank]; }

inline int first_block() { return cta().block * cta().ctas; }

// Warps are numbered over the cluster; told by their CTA's own numbers.
inline std::string warp_text(int warp) {
  const int warps = cta().cta_threads / 32;
  return "CTA " + std::to_string(first_block() + warp / warps) + " warp " + std::to_string(warp % warps);
}

inline std::string barrier_text(const MBarrier& barrier) {
  const std::string text =
      barrier.name ? format("%s[%d]", barrier.name, barrier.stage) : format("mbarrier 0x%x", barrier.address);
  if (cta().ctas == 1) return text;
  return text + " of CTA " + std::to_string(first_block() + static_cast<int>(barrier.address / WINDOW_BYTES));
}

// ---- leaving and resuming threads ----

inline void make_ready(Thread& thread) { cta().warp[static_cast<size_t>(thread.warp())].ready |= 1u << thread.lane(); }

// The warp's next lane to run in this step, taken from those that wait for it.
inline Thread& next_lane(int warp) {
  Engine& own = engine();
  const int lane = own.backwards ? 31 - __builtin_clz(own.lanes) : __builtin_ctz(own.lanes);
  own.lanes &= ~(1u << lane);
  own.cta.warp[static_cast<size_t>(warp)].ready &= ~(1u << lane);
  ++own.statistics.switches;
  return own.cta.thread[static_cast<size_t>(warp * 32 + lane)];
}

// Gives the processor back, to the warp's next lane where there is one; the thread resumes once it is ready again.
inline void switch_out() {
  Engine& own = engine();
  Thread& thread = self();
  if (own.lanes == 0 || own.stop || own.cta.dead) {
    fiber_switch(thread.fiber, own.scheduler);
  } else {
    own.thread = &next_lane(thread.warp());
    fiber_switch(thread.fiber, own.thread->fiber);
  }
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
  const std::string who = engine().thread ? warp_text(engine().thread->warp()) : "CTA " + std::to_string(first_block());
  engine().report.add(engine().step, kind, site, other_site, launch.sites.place(site),
                    std::string(name_of(launch.sites[site].primitive)) + " by " + who + ": " + text);
  if (!launch.config.stop_at_first) return;
  launch.time.stop_after(engine().step);
  engine().stop = true;
  if (engine().thread) switch_out();
}

// A hazard after which the CTA cannot go on.
ATTNBENCH_OUT_OF_LINE void fatal(Hazard kind, SiteId site, const std::string& text) {
  hazard(kind, site, text);
  cta().dead = true;
  if (engine().thread) switch_out();
}

// ---- synchronization: what is known to have happened ----

inline void release(Gathering& target) {
  if (!launch.checked()) return;
  Thread& thread = self();
  target.add(thread.knowledge, cta().agents);
  ++thread.time();
}

inline void acquire(const SnapshotRef& source) {
  if (launch.checked() && source.get()) self().knowledge.learn(source);
}

// ---- early arrival (a mutation) ----

inline uint64_t early_key(int block, int thread, uint32_t calls) {
  return static_cast<uint64_t>(block) << 42 | static_cast<uint64_t>(thread) << 32 | calls;
}

inline void early_arrive(const ArriveRecord& record);

// Every blocking primitive starts with this: a moved arrive happens now, before the wait.
inline void before_blocking() {
  if (launch.early.empty()) return;
  Thread& thread = self();
  const uint32_t next = thread.blocking_calls + 1;
  if (thread.early_done == next) return;
  const auto found = launch.early.find(early_key(cta().block, thread.index, next));
  if (found == launch.early.end()) return;
  thread.early_done = next;
  for (const ArriveRecord& record : found->second) early_arrive(record);
}

// Counts a wait once for all lanes of the warp that go through it.
inline void count_wait(const WaitKey& key) {
  Warp& warp = cta().warp[static_cast<size_t>(self().warp())];
  const WaitKey* const end = warp.waits + (warp.waited ? Warp::WAITS : warp.next_wait);
  if (std::find(static_cast<const WaitKey*>(warp.waits), end, key) != end) return;
  warp.waits[warp.next_wait] = key;
  warp.next_wait = (warp.next_wait + 1) % Warp::WAITS;
  warp.waited = warp.waited || warp.next_wait == 0;
  ++engine().counted.counts.barrier_waits;
}

inline void after_blocking() { ++self().blocking_calls; }

// True where the arrive at `site` has already happened early. Otherwise, in an unmutated run, remembers it.
inline bool arrived_early(SiteId site, int target, int threads) {
  Thread& thread = self();
  if (launch.config.mutation == ATTNBENCH_MUTATION_NONE) {
    constexpr size_t LIMIT = 1u << 20;  // beyond it the later arrives of a long run are not offered for mutation
    if (engine().arrives.size() < LIMIT) {
      engine().arrives.push_back({site, cta().block, thread.index, thread.blocking_calls, target, threads});
    }
    return false;
  }
  if (launch.config.mutation != ATTNBENCH_MUTATION_EARLY || launch.config.mutation_site != site) return false;
  return launch.early.count(early_key(cta().block, thread.index, thread.blocking_calls)) != 0;
}

// ---- asynchronous work ----

inline void execute(const Event& event);  // delivery.h

// Longest delay of a random delivery, in scheduler steps: a few main-loop iterations of a CTA.
constexpr uint32_t LONGEST_DELAY_STEPS = 400;

// Hands work to the asynchronous units. Eager delivery executes it here.
inline void post(Event::What what, int index) {
  Event event{what, index, engine().step};
  if (launch.config.delivery == ATTNBENCH_DELIVERY_EAGER) {
    execute(event);
    return;
  }
  if (launch.config.delivery == ATTNBENCH_DELIVERY_RANDOM) event.due += engine().random.below(LONGEST_DELAY_STEPS);
  cta().events.push_back(event);
}

}  // namespace attnbench::emulation
