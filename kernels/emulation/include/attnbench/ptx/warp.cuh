// Emulated warp collectives; see kernels/include/attnbench/ptx/warp.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

constexpr uint32_t ALL_LANES = 0xffffffffu;

template <class T>
ATTNBENCH_DEVICE T shuffle_index(T value, int lane, Where where = ATTNBENCH_WHERE) {
  static_assert(sizeof(T) == sizeof(uint32_t), "float, int or uint32_t");
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = emulation::shuffle(bits, lane, where);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

template <class T>
ATTNBENCH_DEVICE T shuffle_xor(T value, int mask, Where where = ATTNBENCH_WHERE) {
  return shuffle_index(value, emulation::self().lane() ^ mask, where);
}

ATTNBENCH_DEVICE bool any_sync(bool predicate, Where where = ATTNBENCH_WHERE) {
  return emulation::any_sync(predicate, where);
}

ATTNBENCH_DEVICE bool elect_one(Where where = ATTNBENCH_WHERE) { return emulation::elect_one(where); }

ATTNBENCH_DEVICE void warp_sync(Where where = ATTNBENCH_WHERE) { emulation::warp_sync(where); }

}  // namespace attnbench::ptx
