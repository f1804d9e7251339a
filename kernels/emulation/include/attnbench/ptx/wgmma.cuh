// Emulated wgmma; see kernels/include/attnbench/ptx/wgmma.cuh.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>

namespace attnbench::ptx {

template <Dtype T>
constexpr emulation::Element EMULATED_ELEMENT = T == Dtype::fp16   ? emulation::Element::f16
                                                : T == Dtype::bf16 ? emulation::Element::bf16
                                                                   : emulation::Element::e4m3;

// Without and with what the accumulator holds.
template <Dtype T, int N, bool TransA, bool TransB, bool FromRegisters>
inline constexpr emulation::WgmmaShape EMULATED_SHAPES[2] = {
    {EMULATED_ELEMENT<T>, N, TransA, TransB, FromRegisters, false},
    {EMULATED_ELEMENT<T>, N, TransA, TransB, FromRegisters, true},
};

ATTNBENCH_DEVICE void wgmma_fence(Where where = ATTNBENCH_WHERE) { emulation::wgmma_fence(where); }

ATTNBENCH_DEVICE void wgmma_commit_group(Where where = ATTNBENCH_WHERE) { emulation::wgmma_commit_group(where); }

template <int N>
ATTNBENCH_DEVICE void wgmma_wait_group(Where where = ATTNBENCH_WHERE) {
  emulation::wgmma_wait_group(N, where);
}

template <Dtype T, int N, bool TransA = false, bool TransB = false>
ATTNBENCH_DEVICE void wgmma_ss(float (&d)[N / 2], uint64_t descriptor_a, uint64_t descriptor_b, bool accumulate,
                               Where where = ATTNBENCH_WHERE) {
  static_assert(T != Dtype::e4m3 || (!TransA && !TransB), "8-bit wgmma operands are K-major only");
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "N of wgmma: a multiple of 8 up to 256");
  emulation::wgmma_issue(EMULATED_SHAPES<T, N, TransA, TransB, false>[accumulate], descriptor_a, descriptor_b, d, where);
}

template <Dtype T, int N, bool TransB = false>
ATTNBENCH_DEVICE void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t descriptor_b, bool accumulate,
                               Where where = ATTNBENCH_WHERE) {
  static_assert(T != Dtype::e4m3 || !TransB, "8-bit wgmma operands are K-major only");
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "N of wgmma: a multiple of 8 up to 256");
  emulation::wgmma_issue(EMULATED_SHAPES<T, N, false, TransB, true>[accumulate], reinterpret_cast<uint64_t>(&a[0]),
                         descriptor_b, d, where);
}

}  // namespace attnbench::ptx
