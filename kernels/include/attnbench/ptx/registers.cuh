// Register reallocation between warpgroups (PTX ISA, "setmaxnreg"). All four warps of a warpgroup must execute it;
// N is a multiple of 8 from 24 to 256.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// Waits until the CTA's pool holds enough registers, then raises this warpgroup's limit to N per thread.
template <int N>
ATTNBENCH_DEVICE void setmaxnreg_inc(Where = ATTNBENCH_WHERE) {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg: a multiple of 8 from 24 to 256");
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// Lowers this warpgroup's limit to N per thread and gives the rest back to the pool.
template <int N>
ATTNBENCH_DEVICE void setmaxnreg_dec(Where = ATTNBENCH_WHERE) {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg: a multiple of 8 from 24 to 256");
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

}  // namespace attnbench::ptx
