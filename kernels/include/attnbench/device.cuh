// Device-side vocabulary: function decorations, thread coordinates and the shared-memory base address.
// Kernels include this header and nothing of CUDA directly, so that the same source also compiles for the
// CPU emulation, which brings a header of the same name.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

// NOTE: everything that touches a wgmma accumulator must be inlined; a call inside the wgmma region makes ptxas
// serialize every wgmma (warning C7510).
#define ATTNBENCH_DEVICE static __device__ __forceinline__
#define ATTNBENCH_DEVICE_MEMBER __device__ __forceinline__

// NOTE: the second launch bound (minimum blocks) is needed: without it ptxas ignores setmaxnreg (warning C7508).
// Use: extern "C" ATTNBENCH_KERNEL(384) name(parameters) { ... }
#define ATTNBENCH_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
// The same for kernels of which several CTAs shall share a multiprocessor: bounds their registers.
#define ATTNBENCH_KERNEL_RESIDENT(threads, ctas) __global__ void __launch_bounds__(threads, ctas)
#define ATTNBENCH_GRID_CONSTANT __grid_constant__

#define ATTNBENCH_UNROLL _Pragma("unroll")
#define ATTNBENCH_NO_UNROLL _Pragma("unroll 1")

namespace attnbench {

// ptxas from 13.2 on packs four e4m3 values without a PRMT, and holds fewer registers meanwhile.
constexpr bool PTXAS_MERGES_E4M3 = __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1302;

// Call site of a primitive. Empty on the device; the emulation keeps file and line for reports and mutations.
struct Where {};
#define ATTNBENCH_WHERE (::attnbench::Where{})

ATTNBENCH_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
ATTNBENCH_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
ATTNBENCH_DEVICE int grid_size() { return static_cast<int>(gridDim.x); }

// Address of the dynamic shared memory in the shared::cta window, 1024-byte aligned (the period of the 128-byte
// swizzle: PTX ISA, "Tensor swizzling modes").
ATTNBENCH_DEVICE uint32_t shared_base() {
  extern __shared__ __align__(1024) unsigned char attnbench_dynamic_shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(attnbench_dynamic_shared));
}

}  // namespace attnbench
