// The random-sign Hadamard rotation of rows that lie in registers, x diag(signs) H / sqrt(n) for n = 64, 128 or 256, by
// the fast Walsh-Hadamard transform: log2(n) additions a value. The same operations in the same order as
// attnbench/reference/quantize.py.
//
// A row is shared by 8 neighbouring lanes. It consists of panels of 64 columns; of each, a lane holds one chunk of 8
// columns. The bits of a column's index, from the lowest, which is the order of the stages: 3 within a chunk, 3 the
// lane, the rest the panel. A thread holds 8 chunks: one after the other the panels of a row, then the next row.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/convert.cuh>
#include <attnbench/ptx/math.cuh>
#include <attnbench/ptx/warp.cuh>

namespace attnbench {

constexpr int CHUNK = 8;                  // values of 16 bytes
constexpr int CHUNKS = 8;                 // of a thread
constexpr int ROW_LANES = 8;              // lanes that share a row
constexpr int PANEL = ROW_LANES * CHUNK;  // columns of a 128-byte panel

// Flips the sign bits of the columns that diag(signs) negates: bit i % 32 of columns[i / 32] for column i.
template <int Panels>
ATTNBENCH_DEVICE void apply_signs(uint32_t (&words)[CHUNKS][4], const uint32_t (&columns)[8], int thread) {
  const int lane = thread % ROW_LANES;
  ATTNBENCH_UNROLL
  for (int panel = 0; panel < Panels; ++panel) {
    const uint32_t signs = columns[panel * 2 + lane / 4] >> lane % 4 * CHUNK;
    ATTNBENCH_UNROLL
    for (int w = 0; w < 4; ++w) {
      const uint32_t flips = (signs >> 2 * w & 1u) << 15 | (signs >> (2 * w + 1) & 1u) << 31;
      ATTNBENCH_UNROLL
      for (int i = panel; i < CHUNKS; i += Panels) words[i][w] ^= flips;
    }
  }
}

template <Dtype Type>
ATTNBENCH_DEVICE void unpack(float (&x)[CHUNKS][CHUNK], const uint32_t (&words)[CHUNKS][4]) {
  ATTNBENCH_UNROLL
  for (int i = 0; i < CHUNKS; ++i) {
    ATTNBENCH_UNROLL
    for (int w = 0; w < 4; ++w) {
      if (Type == Dtype::bf16) {
        ptx::unpack_bf16x2(x[i][2 * w], x[i][2 * w + 1], words[i][w]);
      } else {
        ptx::unpack_f16x2(x[i][2 * w], x[i][2 * w + 1], words[i][w]);
      }
    }
  }
}

ATTNBENCH_DEVICE void butterfly(float& low, float& high) {
  const float sum = low + high;
  high = low - high;
  low = sum;
}

// x H / sqrt(head_dim) of every row.
template <int Panels>
ATTNBENCH_DEVICE void rotate(float (&x)[CHUNKS][CHUNK]) {
  ATTNBENCH_UNROLL
  for (int width = 1; width < CHUNK; width *= 2) {
    ATTNBENCH_UNROLL
    for (int at = 0; at < CHUNKS * CHUNK; ++at) {
      if (!(at & width)) butterfly(x[at / CHUNK][at % CHUNK], x[at / CHUNK][at % CHUNK + width]);
    }
  }
  ATTNBENCH_UNROLL
  for (int width = 1; width < ROW_LANES; width *= 2) {
    // The other lane's value plus or minus the own one: the product with 1 or -1 is exact.
    const float sign = thread_index() & width ? -1.0f : 1.0f;
    ATTNBENCH_UNROLL
    for (int at = 0; at < CHUNKS * CHUNK; ++at) {
      float& own = x[at / CHUNK][at % CHUNK];
      own = ptx::multiply_add(own, sign, ptx::shuffle_xor(own, width));
    }
  }
  ATTNBENCH_UNROLL
  for (int width = 1; width < Panels; width *= 2) {
    ATTNBENCH_UNROLL
    for (int at = 0; at < CHUNKS * CHUNK; ++at) {
      if (!(at / CHUNK & width)) butterfly(x[at / CHUNK][at % CHUNK], x[at / CHUNK + width][at % CHUNK]);
    }
  }
  constexpr float scale = Panels == 1 ? 0.125f : (Panels == 2 ? 0.08838834764831845f : 0.0625f);
  ATTNBENCH_UNROLL
  for (int at = 0; at < CHUNKS * CHUNK; ++at) x[at / CHUNK][at % CHUNK] *= scale;
}

}  // namespace attnbench
