// Which keys a query row sees, in whole tiles and within a tile. Causal masks are aligned bottom right: query i sees
// key j when j <= i + seqlen_k - seqlen_q.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>

#include <limits>

namespace attnbench {

constexpr float NEGATIVE_INFINITY = -std::numeric_limits<float>::infinity();

ATTNBENCH_CONSTEXPR int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// Row `row` sees the keys below this; zero or negative where it sees none. Rows past seqlen_q count as the last one.
template <bool Causal>
ATTNBENCH_CONSTEXPR int visible_keys(int row, int seqlen_q, int seqlen_k) {
  if (!Causal || row >= seqlen_q) return seqlen_k;
  return row + 1 + seqlen_k - seqlen_q;
}

// Key tiles that rows [first_row, first_row + rows) need together. At least one, also where no row sees a key: such a
// tile then runs through the ordinary code fully masked, which gives sum 0.
template <bool Causal>
ATTNBENCH_CONSTEXPR int key_tiles(int first_row, int rows, int tile_n, int seqlen_q, int seqlen_k) {
  const int keys = visible_keys<Causal>(first_row + rows - 1, seqlen_q, seqlen_k);
  return keys < 1 ? 1 : ceil_divide(keys, tile_n);
}

// Leading key tiles that every row from first_row on sees in full, so that they need no mask.
template <bool Causal>
ATTNBENCH_CONSTEXPR int unmasked_key_tiles(int first_row, int tile_n, int seqlen_q, int seqlen_k) {
  const int keys = visible_keys<Causal>(first_row, seqlen_q, seqlen_k);
  return keys < 1 ? 0 : keys / tile_n;
}

// Sets the scores of hidden keys to -inf. s: this thread's part of a 64 x (2 * Registers) score tile whose first key
// is first_key; rows: the thread's two rows have `row` and `row + 8` as their query index.
template <bool Causal, int Registers>
ATTNBENCH_DEVICE void mask_scores(float (&s)[Registers], int thread, int row, int first_key, int seqlen_q,
                                  int seqlen_k) {
  const int thread_key = first_key + accumulator_column(thread, 0);
  // Relative to the thread's first key, so that each comparison below is against a constant.
  const int limits[2] = {visible_keys<Causal>(row, seqlen_q, seqlen_k) - thread_key,
                         visible_keys<Causal>(row + 8, seqlen_q, seqlen_k) - thread_key};
  ATTNBENCH_UNROLL
  for (int i = 0; i < Registers; ++i) {
    if (accumulator_column(0, i) >= limits[i >> 1 & 1]) s[i] = NEGATIVE_INFINITY;
  }
}

}  // namespace attnbench
