// Warp-wide exchange and election; all 32 lanes take part.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

constexpr uint32_t ALL_LANES = 0xffffffffu;

// T is float, int or uint32_t.
template <class T>
ATTNBENCH_DEVICE T shuffle_xor(T value, int mask, Where = ATTNBENCH_WHERE) {
  return __shfl_xor_sync(ALL_LANES, value, mask);
}

template <class T>
ATTNBENCH_DEVICE T shuffle_index(T value, int lane, Where = ATTNBENCH_WHERE) {
  return __shfl_sync(ALL_LANES, value, lane);
}

ATTNBENCH_DEVICE bool any_sync(bool predicate, Where = ATTNBENCH_WHERE) {
  return __any_sync(ALL_LANES, predicate) != 0;
}

// True in exactly one lane, the same one every time (PTX ISA, "elect.sync": the choice is deterministic).
ATTNBENCH_DEVICE bool elect_one(Where = ATTNBENCH_WHERE) {
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred elected;\n"
      "elect.sync _|elected, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, elected;\n"
      "}"
      : "=r"(elected)::"memory");
  return elected != 0;
}

ATTNBENCH_DEVICE void warp_sync(Where = ATTNBENCH_WHERE) { __syncwarp(); }

}  // namespace attnbench::ptx
