// Emulated setmaxnreg: bookkeeping only; see kernels/include/attnbench/ptx/registers.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

template <int N>
ATTNBENCH_DEVICE void setmaxnreg_inc(Where where = ATTNBENCH_WHERE) {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg: a multiple of 8 from 24 to 256");
  emulation::setmaxnreg_inc(N, where);
}

template <int N>
ATTNBENCH_DEVICE void setmaxnreg_dec(Where where = ATTNBENCH_WHERE) {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg: a multiple of 8 from 24 to 256");
  emulation::setmaxnreg_dec(N, where);
}

}  // namespace attnbench::ptx
