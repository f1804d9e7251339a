// Emulated mbarriers; see kernels/include/attnbench/ptx/mbarrier.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void mbarrier_init(uint32_t barrier, uint32_t count, Where where = ATTNBENCH_WHERE) {
  emulation::mbarrier_init(barrier, count, where);
}

ATTNBENCH_DEVICE void fence_mbarrier_init(Where where = ATTNBENCH_WHERE) { emulation::fence_mbarrier_init(where); }

ATTNBENCH_DEVICE void mbarrier_arrive(uint32_t barrier, Where where = ATTNBENCH_WHERE) {
  emulation::mbarrier_arrive(barrier, where);
}

ATTNBENCH_DEVICE void mbarrier_arrive_cluster(uint32_t barrier, Where where = ATTNBENCH_WHERE) {
  emulation::mbarrier_arrive_cluster(barrier, where);
}

ATTNBENCH_DEVICE void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes, Where where = ATTNBENCH_WHERE) {
  emulation::mbarrier_arrive_expect_tx(barrier, bytes, where);
}

ATTNBENCH_DEVICE bool mbarrier_try_wait_parity(uint32_t barrier, uint32_t parity, Where where = ATTNBENCH_WHERE) {
  return emulation::mbarrier_try_wait_parity(barrier, parity, where);
}

ATTNBENCH_DEVICE void name_barrier(uint32_t barrier, const char* name, int stage = 0) {
  emulation::name_barrier(barrier, name, stage);
}

}  // namespace attnbench::ptx
