// Happens-before by vector clocks, one component for each agent of a CTA: its threads, and the asynchronous units that
// act for them. Sources: Lamport 1978; the proxy rule is PTX ISA, "Memory Consistency Model: causality order".
//
// What a thread knows is nearly always what the other threads of its warpgroup know, and its own time. So threads share
// clocks that never change (Snapshot), and a join that one of them has done is found again by the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace attnbench::emulation {

constexpr int MAX_WARPGROUPS = 8;
constexpr int MAX_THREADS = 128 * MAX_WARPGROUPS;
constexpr int MAX_BARRIERS = 96;         // mbarriers of a CTA
constexpr int MAX_STORING_THREADS = 32;  // threads of a CTA that issue bulk stores

// Agent numbers. The asynchronous ones come first so that a clock's used part is a prefix.
using Agent = uint16_t;
constexpr Agent WGMMA_AGENT = 0;                                   // + warpgroup: reads of its wgmma, counted in groups
constexpr Agent LOAD_AGENT = WGMMA_AGENT + MAX_WARPGROUPS;         // + mbarrier: TMA loads that complete on it
constexpr Agent STORE_AGENT = LOAD_AGENT + MAX_BARRIERS;           // + slot: a thread's bulk stores, counted in groups
constexpr Agent THREAD_AGENT = STORE_AGENT + MAX_STORING_THREADS;  // + thread
constexpr int AGENTS = THREAD_AGENT + MAX_THREADS;

struct Clock {
  uint32_t time[AGENTS];

  void clear(int used) { std::memset(time, 0, sizeof(uint32_t) * static_cast<size_t>(used)); }
  void assign(const Clock& other, int used) {
    std::memcpy(time, other.time, sizeof(uint32_t) * static_cast<size_t>(used));
  }
  bool equals(const Clock& other, int used) const {
    return std::memcmp(time, other.time, sizeof(uint32_t) * static_cast<size_t>(used)) == 0;
  }
  void join(const Clock& other, int used) {
    for (int i = 0; i < used; ++i) time[i] = std::max(time[i], other.time[i]);
  }
};

// What is known to have happened, and which of it a proxy fence on the way has made visible to the async proxy.
struct Clocks {
  Clock happened, fenced;
  bool any_fenced = false;

  void clear(int used) {
    happened.clear(used);
    fenced.clear(used);
    any_fenced = false;
  }
  void assign(const Clocks& other, int used) {
    happened.assign(other.happened, used);
    fenced.assign(other.fenced, used);
    any_fenced = other.any_fenced;
  }
  bool equals(const Clocks& other, int used) const {
    return happened.equals(other.happened, used) && fenced.equals(other.fenced, used);
  }
  void join(const Clocks& other, int used) {
    happened.join(other.happened, used);
    if (!other.any_fenced) return;
    fenced.join(other.fenced, used);
    any_fenced = true;
  }
};

class SnapshotPool;

// Clocks that do not change any more, and what came of joining them: several threads hold one.
struct Snapshot {
  struct Joined {
    uint64_t base = 0;  // id of what was joined with this one; 0: none
    Snapshot* result = nullptr;
  };
  static constexpr int REMEMBERED = 4;

  Clocks clocks;
  uint64_t id = 0;  // of all snapshots ever made
  uint32_t holders = 0;
  int next_joined = 0;
  Joined joined[REMEMBERED];
  Snapshot* fenced = nullptr;  // the same after a proxy fence
  SnapshotPool* pool = nullptr;
};

// Makes snapshots and takes them back. Those of a CTA belong to it alone, so that nothing here is atomic.
class SnapshotPool {
 public:
  int used = AGENTS;  // agents of the CTA

  Snapshot* make() {
    Snapshot* made;
    if (free_.empty()) {
      all_.push_back(std::make_unique<Snapshot>());
      made = all_.back().get();
      made->pool = this;
    } else {
      made = free_.back();
      free_.pop_back();
    }
    made->id = ++last_id_;
    return made;
  }
  void hold(Snapshot* snapshot) { ++snapshot->holders; }
  void let_go(Snapshot* snapshot) {
    if (--snapshot->holders != 0) return;
    for (Snapshot::Joined& joined : snapshot->joined) {
      Snapshot* const result = std::exchange(joined.result, nullptr);
      joined.base = 0;
      if (result != nullptr && result != snapshot) let_go(result);
    }
    if (Snapshot* const fenced = std::exchange(snapshot->fenced, nullptr)) {
      if (fenced != snapshot) let_go(fenced);
    }
    free_.push_back(snapshot);
  }

 private:
  uint64_t last_id_ = 0;
  std::vector<std::unique_ptr<Snapshot>> all_;
  std::vector<Snapshot*> free_;
};

// One holder of a snapshot; of none before it is set.
class SnapshotRef {
 public:
  SnapshotRef() = default;
  explicit SnapshotRef(Snapshot* snapshot) : at_(snapshot) { hold(); }
  SnapshotRef(const SnapshotRef& other) : at_(other.at_) { hold(); }
  SnapshotRef(SnapshotRef&& other) noexcept : at_(std::exchange(other.at_, nullptr)) {}
  SnapshotRef& operator=(SnapshotRef other) noexcept {
    std::swap(at_, other.at_);
    return *this;
  }
  ~SnapshotRef() {
    if (at_) at_->pool->let_go(at_);
  }
  Snapshot* get() const { return at_; }
  Snapshot* operator->() const { return at_; }

 private:
  void hold() {
    if (at_) at_->pool->hold(at_);
  }
  Snapshot* at_ = nullptr;
};

// What comes of knowing `base` and learning `source`: one of the two where it holds the other, else a new snapshot.
inline SnapshotRef joined(const SnapshotRef& base, const SnapshotRef& source) {
  Snapshot *b = base.get(), *s = source.get();
  if (b == s) return base;
  for (const Snapshot::Joined& known : s->joined) {
    if (known.base == b->id) return known.result ? SnapshotRef(known.result) : base;
  }
  const int used = b->pool->used;
  SnapshotRef result(b->pool->make());
  result->clocks.assign(b->clocks, used);
  result->clocks.join(s->clocks, used);
  if (result->clocks.equals(s->clocks, used)) {
    result = source;
  } else if (result->clocks.equals(b->clocks, used)) {
    result = base;
  }
  // NOTE: only what is younger, or the snapshot itself, is remembered by pointer: no circle keeps two alive.
  Snapshot::Joined& place = s->joined[s->next_joined];
  s->next_joined = (s->next_joined + 1) % Snapshot::REMEMBERED;
  if (place.result != nullptr && place.result != s) s->pool->let_go(place.result);
  place = {b->id, result.get() == b ? nullptr : result.get()};
  if (place.result != nullptr && place.result != s) s->pool->hold(place.result);
  return result;
}

// `base` after a proxy fence: all that has happened is visible to the async proxy.
inline SnapshotRef fenced(const SnapshotRef& base) {
  Snapshot* b = base.get();
  if (b->fenced) return SnapshotRef(b->fenced);
  const int used = b->pool->used;
  SnapshotRef result(b->pool->make());
  result->clocks.assign(b->clocks, used);
  result->clocks.fenced.join(b->clocks.happened, used);
  result->clocks.any_fenced = true;
  if (b->clocks.any_fenced && result->clocks.equals(b->clocks, used)) result = base;
  b->fenced = result.get();
  if (result.get() != b) b->pool->hold(b->fenced);
  return result;
}

// What a thread knows: what it shares with others, and of itself what nobody may have learned yet.
struct Knowledge {
  SnapshotRef shared;
  Agent agent = 0, wgmma_agent = 0;
  int store_agent = -1;          // of its bulk stores; -1: it has issued none
  uint32_t time = 1;             // its own, which the next access carries
  uint32_t fenced_time = 0;      // what of its own a proxy fence covers
  uint32_t wgmma_groups = 0;     // of its warpgroup, that it has waited for
  uint32_t bulk_groups = 0;      // of its own, likewise

  void begin(SnapshotRef nothing, Agent thread, Agent wgmma) {
    *this = Knowledge{};
    shared = std::move(nothing);
    agent = thread;
    wgmma_agent = wgmma;
  }
  uint32_t happened(Agent of) const {
    const uint32_t known = shared->clocks.happened.time[of];
    if (of == agent) return std::max(known, time);
    if (of == wgmma_agent) return std::max(known, wgmma_groups);
    if (of == store_agent) return std::max(known, bulk_groups);
    return known;
  }
  uint32_t fenced(Agent of) const {
    const uint32_t known = shared->clocks.fenced.time[of];
    return of == agent ? std::max(known, fenced_time) : known;
  }
  void learn(const SnapshotRef& source) { shared = joined(shared, source); }
  void fence() {
    shared = emulation::fenced(shared);
    fenced_time = time++;  // a later store by this thread is not covered
  }
};

// What those who arrive at a synchronization object bring: grows, and is copied when it is handed on.
class Gathering {
 public:
  Clocks clocks;

  void clear(int used) {
    clocks.clear(used);
    std::fill(std::begin(known_), std::end(known_), 0);
  }
  void add(const Knowledge& of, int used) {
    const uint64_t id = of.shared->id;
    if (std::find(std::begin(known_), std::end(known_), id) == std::end(known_)) {
      clocks.join(of.shared->clocks, used);
      known_[next_] = id;
      next_ = (next_ + 1) % REMEMBERED;
    }
    raise(clocks.happened, of.agent, of.time);
    raise(clocks.happened, of.wgmma_agent, of.wgmma_groups);
    if (of.store_agent >= 0) raise(clocks.happened, static_cast<Agent>(of.store_agent), of.bulk_groups);
    if (of.fenced_time == 0) return;
    raise(clocks.fenced, of.agent, of.fenced_time);
    clocks.any_fenced = true;
  }
  SnapshotRef snapshot(SnapshotPool& pool) const {
    SnapshotRef made(pool.make());
    made->clocks.assign(clocks, pool.used);
    return made;
  }

 private:
  static void raise(Clock& clock, Agent agent, uint32_t time) { clock.time[agent] = std::max(clock.time[agent], time); }
  static constexpr int REMEMBERED = 4;
  uint64_t known_[REMEMBERED] = {};  // ids of the snapshots that are in it
  int next_ = 0;
};

}  // namespace attnbench::emulation
