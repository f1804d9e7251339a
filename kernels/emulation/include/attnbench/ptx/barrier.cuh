// Emulated named barriers; see kernels/include/attnbench/ptx/barrier.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void barrier_sync(int id, int threads, Where where = ATTNBENCH_WHERE) {
  emulation::barrier_sync(id, threads, where);
}

ATTNBENCH_DEVICE void barrier_arrive(int id, int threads, Where where = ATTNBENCH_WHERE) {
  emulation::barrier_arrive(id, threads, where);
}

ATTNBENCH_DEVICE void cta_sync(Where where = ATTNBENCH_WHERE) { emulation::cta_sync(where); }

}  // namespace attnbench::ptx
