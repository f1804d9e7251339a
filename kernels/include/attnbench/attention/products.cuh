// The two matrix products of attention as runs of wgmma over one tile, and the copies that feed them. No fence, no
// commit, no wait: those are the schedule, which each kernel owns.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/mbarrier.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/wgmma.cuh>

namespace attnbench {

// k of one wgmma: 32 bytes of a row of either operand.
ATTNBENCH_CONSTEXPR int step_k(Dtype dtype) { return 32 / element_bytes(dtype); }
constexpr int STEP_K = step_k(Dtype::fp16);  // of a 16-bit type

// What to add to the query descriptors in a main loop: 0 for every key tile, which ptxas cannot know.
// NOTE: at head_dim 256 the 16 query descriptors do not change in the loop, so ptxas computes them before it; but they
// are more than the uniform registers hold, and each then comes back through an R2UR. Adding to a base costs less. To
// the base of descriptors: added to the address it costs more instructions, and registers that then spill. Elsewhere it
// computes them in the loop by itself, but some of them by two additions with a carry; where, only trying says.
template <bool Held>
ATTNBENCH_DEVICE uint32_t hold_in_loop(int key_tile) {
  return Held ? uint32_t(key_tile) >> 30 : 0u;  // there are fewer than 2^30 key tiles (abi.h)
}

// scores (64 x TileN) = Q K^T. q: 64 rows of a tile of QRows rows in shared memory; k: TileN rows. hold: hold_in_loop,
// in a main loop.
template <Dtype T, int HeadDim, int TileN, int QRows>
ATTNBENCH_DEVICE void issue_query_key(float (&scores)[TileN / 2], uint32_t q, uint32_t k, uint32_t hold = 0,
                                      Where where = ATTNBENCH_WHERE) {
  const uint64_t q_descriptor = k_major_descriptor(q) + hold;
  const uint64_t k_descriptor = k_major_descriptor(k);
  ATTNBENCH_UNROLL
  for (int step = 0; step < HeadDim / step_k(T); ++step) {
    ptx::wgmma_ss<T, TileN>(scores, q_descriptor + k_major_step(step, QRows), k_descriptor + k_major_step(step, TileN),
                            step != 0, where);
  }
}

// output (64 x HeadDim) += weights V. weights: registers, one k-step each; v: TileN rows in shared memory.
template <Dtype T, int HeadDim, int TileN>
ATTNBENCH_DEVICE void issue_weights_value(float (&output)[HeadDim / 2], const uint32_t (&weights)[TileN / STEP_K][4],
                                          uint32_t v, Where where = ATTNBENCH_WHERE) {
  const uint64_t v_descriptor = mn_major_descriptor(v, TileN);
  ATTNBENCH_UNROLL
  for (int step = 0; step < TileN / STEP_K; ++step) {
    ptx::wgmma_rs<T, HeadDim, true>(output, weights[step], v_descriptor + mn_major_step(step), true, where);
  }
}

// The same for a type whose operands are K-major only: a tile of V^T has Rows rows, its keys in permuted order
// (layout.cuh); v: the first of the Columns rows that the product takes. fresh: output starts at 0 instead of adding.
template <Dtype T, int Columns, int Rows, int Steps>
ATTNBENCH_DEVICE void issue_weights_value_transposed(float (&output)[Columns / 2], const uint32_t (&weights)[Steps][4],
                                                     uint32_t v, bool fresh, Where where = ATTNBENCH_WHERE) {
  const uint64_t v_descriptor = k_major_descriptor(v);
  ATTNBENCH_UNROLL
  for (int step = 0; step < Steps; ++step) {
    const bool accumulate = step > 0 || !fresh;
    ptx::wgmma_rs<T, Columns>(output, weights[step], v_descriptor + k_major_step(step, Rows), accumulate, where);
  }
}

// Panels of a tile that is `columns` wide. The last one may be in part beyond the tensor or belong to the next tile.
ATTNBENCH_CONSTEXPR int panel_count(Dtype dtype, int columns) {
  return (columns + panel_columns(dtype) - 1) / panel_columns(dtype);
}

ATTNBENCH_CONSTEXPR uint32_t tile_bytes(Dtype dtype, int columns, int rows) {
  return uint32_t(panel_count(dtype, columns)) * panel_bytes(rows);
}

// Bytes of a tile of `rows` rows of a 16-bit type.
ATTNBENCH_CONSTEXPR uint32_t tile_bytes(int head_dim, int rows) { return tile_bytes(Dtype::fp16, head_dim, rows); }

// Announces and starts the copy of Rows x Columns elements from (row, column) on of one (head, batch), panel by panel.
// One thread.
template <Dtype T, int Columns, int Rows>
ATTNBENCH_DEVICE void load_panels(uint32_t destination, const ptx::TensorMap* map, uint32_t barrier, int column,
                                  int row, int head, int batch, uint64_t cache_hint, Where where = ATTNBENCH_WHERE) {
  ptx::mbarrier_arrive_expect_tx(barrier, tile_bytes(T, Columns, Rows), where);
  ATTNBENCH_UNROLL
  for (int panel = 0; panel < panel_count(T, Columns); ++panel) {
    ptx::tma_load_4d(destination + panel * panel_bytes(Rows), map, barrier, column + panel * panel_columns(T), row,
                     head, batch, cache_hint, where);
  }
}

// The same for whole rows of a 16-bit type.
template <int HeadDim, int Rows>
ATTNBENCH_DEVICE void load_tile(uint32_t destination, const ptx::TensorMap* map, uint32_t barrier, int row, int head,
                                int batch, uint64_t cache_hint, Where where = ATTNBENCH_WHERE) {
  load_panels<Dtype::fp16, HeadDim, Rows>(destination, map, barrier, 0, row, head, batch, cache_hint, where);
}

}  // namespace attnbench
