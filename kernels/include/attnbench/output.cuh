// Ways of a finished output tile and its LSE from registers to global memory.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/forward.h>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/matrix.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/softmax.cuh>

namespace attnbench {

// Writes the LSE of the thread's rows `row` and `row + 8`; the first thread of each quad writes.
ATTNBENCH_DEVICE void store_lse(const ForwardParams& params, const float (&lse)[ROWS_PER_THREAD], int thread, int row,
                                int head, int batch, Where where = ATTNBENCH_WHERE) {
  if (params.lse == nullptr || thread % 4 != 0) return;
  const int64_t first = (int64_t(batch) * params.num_heads + head) * params.seqlen_q;
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    if (row + 8 * r < params.seqlen_q) ptx::store_global_f32(params.lse + first + row + 8 * r, lse[r], where);
  }
}

// Rounds and writes the thread's part of the output straight from registers, 4 bytes at a time: simple, but a warp
// then writes 16 bytes per row and instruction.
template <Dtype T, int Registers>
ATTNBENCH_DEVICE void store_output_direct(const ForwardParams& params, const float (&o)[Registers], int thread, int row,
                                          int head, int batch, Where where = ATTNBENCH_WHERE) {
  const int64_t element = batch * params.out_strides[0] + row * params.out_strides[1] + head * params.out_strides[2] +
                          accumulator_column(thread, 0);
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    if (row + 8 * r >= params.seqlen_q) continue;
    uint16_t* out = static_cast<uint16_t*>(params.out) + element + 8 * r * params.out_strides[1];
    ATTNBENCH_UNROLL
    for (int i = 2 * r; i < Registers; i += 4) {
      ptx::store_global_b32(out + accumulator_column(0, i), pack_pair<T>(o[i], o[i + 1]), where);
    }
  }
}

}  // namespace attnbench
