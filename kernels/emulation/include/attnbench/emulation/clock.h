// Happens-before by vector clocks, one component for each agent of a CTA: its threads, and the asynchronous units that
// act for them. Sources: Lamport 1978; the proxy rule is PTX ISA, "Memory Consistency Model: causality order".
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
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
  void join(const Clock& other, int used) {
    for (int i = 0; i < used; ++i) time[i] = std::max(time[i], other.time[i]);
  }
  void assign(const Clock& other, int used) {
    std::memcpy(time, other.time, sizeof(uint32_t) * static_cast<size_t>(used));
  }
};

// What a thread or a synchronization object knows to have happened, and which of it a proxy fence on the way has made
// visible to the async proxy.
struct Knowledge {
  Clock happened;
  Clock fenced;
  bool any_fenced = false;

  void clear(int used) {
    happened.clear(used);
    fenced.clear(used);
    any_fenced = false;
  }
  void join(const Knowledge& other, int used) {
    happened.join(other.happened, used);
    if (other.any_fenced) {
      fenced.join(other.fenced, used);
      any_fenced = true;
    }
  }
  void assign(const Knowledge& other, int used) {
    happened.assign(other.happened, used);
    fenced.assign(other.fenced, used);
    any_fenced = other.any_fenced;
  }
  void fence(int used) {
    fenced.join(happened, used);
    any_fenced = true;
  }
};

// One access to (part of) 16 bytes of shared memory.
struct Access {
  uint32_t time;  // of `agent`
  Agent agent;
  uint16_t site;
  uint16_t bytes;  // mask of the bytes touched
  bool generic;    // by an ordinary instruction, not by the async proxy
};

// Accesses to one 16-byte granule that a later one may conflict with; nearly always fewer than four.
class AccessList {
 public:
  void clear() {
    count_ = 0;
    if (more_) more_->clear();
  }
  int size() const { return count_; }
  Access& operator[](int i) { return i < INLINE ? inline_[i] : (*more_)[static_cast<size_t>(i - INLINE)]; }

  void add(const Access& access) {
    for (int i = 0; i < size(); ++i) {
      Access& old = (*this)[i];
      if (old.agent == access.agent && old.generic == access.generic && (old.bytes & ~access.bytes) == 0) {
        old = access;
        return;
      }
    }
    if (count_ < INLINE) {
      inline_[count_] = access;
    } else {
      if (!more_) more_ = std::make_unique<std::vector<Access>>();
      more_->push_back(access);
    }
    ++count_;
  }

  // Forgets what `bytes` covers.
  void cover(uint16_t bytes) {
    if (bytes == 0xffff) {
      clear();
      return;
    }
    AccessList kept;
    for (int i = 0; i < size(); ++i) {
      Access access = (*this)[i];
      access.bytes = static_cast<uint16_t>(access.bytes & ~bytes);
      if (access.bytes) kept.add(access);
    }
    *this = std::move(kept);
  }

 private:
  // NOTE: small, and the count first: most of an emulated run's time once was the way to these lists in memory.
  static constexpr int INLINE = 3;
  int count_ = 0;
  Access inline_[INLINE] = {};
  std::unique_ptr<std::vector<Access>> more_;
};

struct Granule {
  AccessList writers, readers;
};

}  // namespace attnbench::emulation
