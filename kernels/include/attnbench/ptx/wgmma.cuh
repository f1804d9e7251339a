// Warpgroup matrix multiply-accumulate: D (64 x N, fp32, registers) = A (64 x k) * B (k x N) [+ D], asynchronous,
// issued by the four warps of one warpgroup (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate
// Instructions"). k is 16 for fp16 and bf16, 32 for e4m3. B comes from shared memory, A from shared memory (ss) or
// registers (rs); fragment layouts and descriptors are in layout.cuh.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/wgmma_shapes.cuh>

namespace attnbench::ptx {

// Orders register accesses of the whole warpgroup before the next wgmma: needed before the first one, and after
// accumulator or A registers were written by other instructions.
ATTNBENCH_DEVICE void wgmma_fence(Where = ATTNBENCH_WHERE) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group over all wgmma issued since the last commit.
ATTNBENCH_DEVICE void wgmma_commit_group(Where = ATTNBENCH_WHERE) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most N of the warp's groups are pending. Until then accumulators and A registers of a pending group
// must not be touched, and its shared-memory operands must not change.
template <int N>
ATTNBENCH_DEVICE void wgmma_wait_group(Where = ATTNBENCH_WHERE) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// D = A * B (+ D where accumulate), both operands in shared memory. TransA / TransB: the operand is stored with
// M / N contiguous ("MN-major") instead of k; 16-bit types only.
template <Dtype T, int N, bool TransA = false, bool TransB = false>
ATTNBENCH_DEVICE void wgmma_ss(float (&d)[N / 2], uint64_t descriptor_a, uint64_t descriptor_b, bool accumulate,
                               Where = ATTNBENCH_WHERE) {
  static_assert(T != Dtype::e4m3 || (!TransA && !TransB), "8-bit wgmma operands are K-major only");
  WgmmaShape<N>::template ss<T, TransA, TransB>(d, descriptor_a, descriptor_b, accumulate);
}

// The same with A in registers.
template <Dtype T, int N, bool TransB = false>
ATTNBENCH_DEVICE void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t descriptor_b, bool accumulate,
                               Where = ATTNBENCH_WHERE) {
  static_assert(T != Dtype::e4m3 || !TransB, "8-bit wgmma operands are K-major only");
  WgmmaShape<N>::template rs<T, TransB>(d, a, descriptor_b, accumulate);
}

}  // namespace attnbench::ptx
