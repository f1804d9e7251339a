// Rings of shared-memory stages handed between a producer (TMA) and consumers (wgmma) by pairs of mbarriers.
//
// full[stage]: one arrival by the producer, with the bytes it announces; completes when the copies have landed.
// empty[stage]: one arrival per consumer warpgroup, after its last read of the stage.
// A role walks the ring with its own stage index and phase bit; the phase flips each time the index wraps.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/ptx/mbarrier.cuh>

namespace attnbench {

constexpr uint32_t MBARRIER_BYTES = 8;

// Spins until the phase with this parity has completed.
ATTNBENCH_DEVICE void wait_barrier(uint32_t barrier, uint32_t parity, Where where = ATTNBENCH_WHERE) {
  while (!ptx::mbarrier_try_wait_parity(barrier, parity, where)) {
  }
}

ATTNBENCH_DEVICE void init_barriers(uint32_t first, int count, uint32_t arrivals, const char* name,
                                    Where where = ATTNBENCH_WHERE) {
  for (int i = 0; i < count; ++i) {
    ptx::mbarrier_init(first + i * MBARRIER_BYTES, arrivals, where);
    ptx::name_barrier(first + i * MBARRIER_BYTES, name, i);
  }
}

// One role's position in a ring of `Stages` stages.
template <int Stages>
struct RingPosition {
  int stage = 0;
  uint32_t phase = 0;

  ATTNBENCH_DEVICE_MEMBER void advance() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Consumer: waits until the stage's copies have landed.
template <int Stages>
ATTNBENCH_DEVICE void wait_full(uint32_t full, const RingPosition<Stages>& at, Where where = ATTNBENCH_WHERE) {
  wait_barrier(full + at.stage * MBARRIER_BYTES, at.phase, where);
}

// Producer: waits until all consumers have released the stage.
// NOTE: the opposite parity, which counts as completed on a fresh barrier, so the first lap passes at once.
template <int Stages>
ATTNBENCH_DEVICE void wait_empty(uint32_t empty, const RingPosition<Stages>& at, Where where = ATTNBENCH_WHERE) {
  wait_barrier(empty + at.stage * MBARRIER_BYTES, at.phase ^ 1, where);
}

}  // namespace attnbench
