// Tensor Memory Accelerator: tile copies between global and shared memory described by a tensor map (PTX ISA,
// "cp.async.bulk.tensor"). Coordinates are in elements, innermost first: (head_dim, seqlen, head, batch).
#pragma once

#include <cuda.h>

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// Opaque 128-byte descriptor, encoded on the host and passed as a __grid_constant__ kernel parameter.
using TensorMap = CUtensorMap;

// L2 cache policies for tma_load_4d: the encodings that createpolicy.fractional gives for fraction 1.0.
constexpr uint64_t EVICT_NORMAL = 0x1000000000000000ull;
constexpr uint64_t EVICT_FIRST = 0x12F0000000000000ull;
constexpr uint64_t EVICT_LAST = 0x14F0000000000000ull;

ATTNBENCH_DEVICE void prefetch_tensormap(const TensorMap* map, Where = ATTNBENCH_WHERE) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Loads one box to shared memory; out-of-bounds elements arrive as zero.
// NOTE: the barrier always receives the bytes of the full box, also where the box is partly out of bounds.
ATTNBENCH_DEVICE void tma_load_4d(uint32_t destination, const TensorMap* map, uint32_t barrier, int c0, int c1, int c2,
                                  int c3, uint64_t cache_hint, Where = ATTNBENCH_WHERE) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(cache_hint)
      : "memory");
}

// Loads one box to the same place of every CTA of the cluster whose bit is set in cta_mask, and completes on the
// barrier at the same place there. destination, barrier: of this CTA.
ATTNBENCH_DEVICE void tma_load_multicast_4d(uint32_t destination, const TensorMap* map, uint32_t barrier, int c0,
                                            int c1, int c2, int c3, uint16_t cta_mask, uint64_t cache_hint,
                                            Where = ATTNBENCH_WHERE) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7, %8;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "h"(cta_mask), "l"(cache_hint)
      : "memory");
}

// Stores one box to global memory; out-of-bounds elements are not written. Part of the thread's current bulk group.
ATTNBENCH_DEVICE void tma_store_4d(const TensorMap* map, uint32_t source, int c0, int c1, int c2, int c3,
                                   Where = ATTNBENCH_WHERE) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

ATTNBENCH_DEVICE void bulk_commit_group(Where = ATTNBENCH_WHERE) {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most N of this thread's bulk groups still read their shared-memory source.
template <int N>
ATTNBENCH_DEVICE void bulk_wait_group_read(Where = ATTNBENCH_WHERE) {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// Waits until at most N of this thread's bulk groups are incomplete (writes made visible to this thread).
template <int N>
ATTNBENCH_DEVICE void bulk_wait_group(Where = ATTNBENCH_WHERE) {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace attnbench::ptx
