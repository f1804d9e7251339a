// Emulated TMA; see kernels/include/attnbench/ptx/tma.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

using TensorMap = emulation::TensorMap;

constexpr uint64_t EVICT_NORMAL = 0x1000000000000000ull;
constexpr uint64_t EVICT_FIRST = 0x12F0000000000000ull;
constexpr uint64_t EVICT_LAST = 0x14F0000000000000ull;

ATTNBENCH_DEVICE void prefetch_tensormap(const TensorMap*, Where = ATTNBENCH_WHERE) {}

ATTNBENCH_DEVICE void tma_load_4d(uint32_t destination, const TensorMap* map, uint32_t barrier, int c0, int c1, int c2,
                                  int c3, uint64_t, Where where = ATTNBENCH_WHERE) {
  emulation::tma_load_4d(destination, map, barrier, c0, c1, c2, c3, where);
}

ATTNBENCH_DEVICE void tma_load_multicast_4d(uint32_t destination, const TensorMap* map, uint32_t barrier, int c0,
                                            int c1, int c2, int c3, uint16_t cta_mask, uint64_t,
                                            Where where = ATTNBENCH_WHERE) {
  emulation::tma_load_multicast_4d(destination, map, barrier, c0, c1, c2, c3, cta_mask, where);
}

ATTNBENCH_DEVICE void tma_store_4d(const TensorMap* map, uint32_t source, int c0, int c1, int c2, int c3,
                                   Where where = ATTNBENCH_WHERE) {
  emulation::tma_store_4d(map, source, c0, c1, c2, c3, where);
}

ATTNBENCH_DEVICE void bulk_commit_group(Where where = ATTNBENCH_WHERE) { emulation::bulk_commit_group(where); }

template <int N>
ATTNBENCH_DEVICE void bulk_wait_group_read(Where where = ATTNBENCH_WHERE) {
  emulation::bulk_wait_group(N, false, where);
}

template <int N>
ATTNBENCH_DEVICE void bulk_wait_group(Where where = ATTNBENCH_WHERE) {
  emulation::bulk_wait_group(N, true, where);
}

}  // namespace attnbench::ptx
