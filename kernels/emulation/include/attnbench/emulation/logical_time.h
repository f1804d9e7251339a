// The order of what CTAs in flight together do to each other through global memory.
//
// Each engine runs its CTAs on a thread of the host, and its time is the number of steps that it has taken. An atomic
// operation waits until no other engine can do one at an earlier time, so that a launch depends on its configuration
// alone, not on the machine (conservative synchronization: Chandy and Misra 1979).
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>

#include <sched.h>

namespace attnbench::emulation {

class LogicalTime {
 public:
  void begin(int engines) {
    count_ = engines;
    at_ = std::make_unique<Place[]>(static_cast<size_t>(engines));
    stop_after_ = NEVER;
  }
  void reach(int engine, uint64_t step) { at_[engine].step.store(step, std::memory_order_release); }
  void end(int engine) { reach(engine, NEVER); }

  // Returns once every other engine is past `step`, those with a higher number at it at least.
  void wait(int engine, uint64_t step) {
    reach(engine, step);
    for (int other = 0; other < count_; ++other) {
      if (other == engine) continue;
      const uint64_t least = step + (other < engine ? 1 : 0);
      for (int spins = 0; at_[other].step.load(std::memory_order_acquire) < least; ++spins) {
        if (spins > SPINS) sched_yield();
      }
    }
  }

  // Nothing that happens later than `step` counts any more.
  void stop_after(uint64_t step) {
    uint64_t known = stop_after_.load();
    while (step < known && !stop_after_.compare_exchange_weak(known, step)) {
    }
  }
  bool stopped(uint64_t step) const { return step > stop_after_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint64_t NEVER = std::numeric_limits<uint64_t>::max();
  static constexpr int SPINS = 200;
  struct alignas(64) Place {
    std::atomic<uint64_t> step{0};
  };
  int count_ = 0;
  std::unique_ptr<Place[]> at_;
  std::atomic<uint64_t> stop_after_{NEVER};
};

}  // namespace attnbench::emulation
