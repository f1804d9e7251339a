// Ways of a finished output tile and its LSE from registers to global memory.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/fence.cuh>
#include <attnbench/ptx/matrix.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/warp.cuh>
#include <attnbench/attention/softmax.cuh>

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

// Transposes 4 x 4 words over the four threads of a quad: word i of thread t becomes word t of thread i. Two rounds of
// exchange, with the neighbour at distance 1 and then 2.
ATTNBENCH_DEVICE void transpose_quad(uint32_t (&words)[4], int thread, Where where = ATTNBENCH_WHERE) {
  ATTNBENCH_UNROLL
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = (thread & distance) != 0;
    ATTNBENCH_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int low = distance == 1 ? 2 * i : i;
      const int high = low + distance;
      const uint32_t received = ptx::shuffle_xor(upper ? words[low] : words[high], distance, where);
      words[low] = upper ? received : words[low];
      words[high] = upper ? words[high] : received;
    }
  }
}

// Rounds and writes the thread's part of the output from registers, 16 bytes at a time and 64 contiguous bytes per
// quad: for kernels whose shared memory has no room for a staged tile.
template <Dtype T, int Registers>
ATTNBENCH_DEVICE void store_output_wide(const ForwardParams& params, const float (&o)[Registers], int thread, int row,
                                        int head, int batch, Where where = ATTNBENCH_WHERE) {
  static_assert(Registers % 16 == 0, "four 8-column blocks at a time");
  const int64_t element = batch * params.out_strides[0] + row * params.out_strides[1] + head * params.out_strides[2];
  uint16_t* out = static_cast<uint16_t*>(params.out) + element + thread % 4 * 8;
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    ATTNBENCH_UNROLL
    for (int i = 0; i < Registers; i += 16) {
      uint32_t words[4];
      ATTNBENCH_UNROLL
      for (int block = 0; block < 4; ++block) {
        words[block] = pack_pair<T>(o[i + 4 * block + 2 * r], o[i + 4 * block + 2 * r + 1]);
      }
      transpose_quad(words, thread, where);
      if (row + 8 * r < params.seqlen_q) {
        ptx::store_global_b128(out + 8 * r * params.out_strides[1] + i * 2, words, where);
      }
    }
  }
}

// Rounds and writes a warp's 16 rows to its part of a staging tile in shared memory, panels of `PanelRows` rows.
// staging: address of the warp's first row in the first panel. Conflict-free: the swizzle spreads each 8x8 matrix
// over all banks.
template <Dtype T, int PanelRows, int Registers>
ATTNBENCH_DEVICE void stage_output(uint32_t staging, const float (&o)[Registers], int lane,
                                   Where where = ATTNBENCH_WHERE) {
  const int row = lane % 16;
  ATTNBENCH_UNROLL
  for (int i = 0; i < Registers; i += 8) {  // 16 columns: four 8x8 matrices
    const int column = i * 2 + lane / 16 * 8;
    const uint32_t address = staging + tile_offset(T, PanelRows, row, column);
    ptx::stmatrix_x4(address, pack_pair<T>(o[i], o[i + 1]), pack_pair<T>(o[i + 2], o[i + 3]),
                     pack_pair<T>(o[i + 4], o[i + 5]), pack_pair<T>(o[i + 6], o[i + 7]), where);
  }
}

}  // namespace attnbench
