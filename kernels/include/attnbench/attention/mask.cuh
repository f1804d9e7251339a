// Which keys a query row sees, in whole tiles and within a tile. Causal masks are aligned bottom right: query i sees
// key j when j <= i + seqlen_k - seqlen_q.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/math.cuh>

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

// How many of the keys that a thread holds (of each row two neighbours of every eight: layout.cuh) its two rows see,
// from key 0 on. Negative where a row sees none.
struct VisibleKeys {
  int held[2];
};

// row: query index of the thread's first row; the other one is 8 further on.
template <bool Causal>
ATTNBENCH_DEVICE VisibleKeys visible_to_thread(int thread, int row, int seqlen_q, int seqlen_k) {
  VisibleKeys visible;
  ATTNBENCH_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int keys = visible_keys<Causal>(row + 8 * r, seqlen_q, seqlen_k) - accumulator_column(thread, 0);
    visible.held[r] = ((keys + 7) >> 3) + ((keys + 6) >> 3);  // even keys, odd ones
  }
  return visible;
}

// Sets the scores of hidden keys to -inf. s: this thread's part of a 64 x (2 * Registers) score tile whose first key
// is first_key, a multiple of 8.
// NOTE: a row sees the first so many of its keys that the thread holds, so that one word says it for 32, and ptxas
// moves seven bits of it at a time into predicates (R2P). A comparison for each key takes twice the instructions, of
// the pipe that masks load most. Without a causal mask both rows see the same keys, and one predicate serves two.
template <bool Causal, int Registers>
ATTNBENCH_DEVICE void mask_scores(float (&s)[Registers], const VisibleKeys& visible, int first_key) {
  constexpr int held = Registers / 2;  // of each row
  constexpr int word = 32;
  constexpr int rows_at_once = Causal ? 1 : 2;
  ATTNBENCH_UNROLL
  for (int row = 0; row < 2; row += rows_at_once) {
    const int seen = visible.held[row] - first_key / 4;
    ATTNBENCH_UNROLL
    for (int first = 0; first < held; first += word) {
      const uint32_t hidden = ptx::shift_left(~0u, seen > first ? seen - first : 0);
      ATTNBENCH_UNROLL
      for (int i = first; i < held && i < first + word; ++i) {
        ATTNBENCH_UNROLL
        for (int r = row; r < row + rows_at_once; ++r) {
          if (hidden >> (i - first) & 1) s[i / 2 * 4 + 2 * r + i % 2] = NEGATIVE_INFINITY;
        }
      }
    }
  }
}

}  // namespace attnbench
