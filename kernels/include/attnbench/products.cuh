// The two matrix products of attention as runs of wgmma over one tile, and the copies that feed them. No fence, no
// commit, no wait: those are the schedule, which each kernel owns.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/mbarrier.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/wgmma.cuh>

namespace attnbench {

constexpr int STEP_K = 16;  // k of one wgmma of a 16-bit type

// scores (64 x TileN) = Q K^T. q: 64 rows of a tile of QRows rows in shared memory; k: TileN rows.
template <Dtype T, int HeadDim, int TileN, int QRows>
ATTNBENCH_DEVICE void issue_query_key(float (&scores)[TileN / 2], uint32_t q, uint32_t k,
                                      Where where = ATTNBENCH_WHERE) {
  const uint64_t q_descriptor = k_major_descriptor(q);
  const uint64_t k_descriptor = k_major_descriptor(k);
  ATTNBENCH_UNROLL
  for (int step = 0; step < HeadDim / STEP_K; ++step) {
    ptx::wgmma_ss<T, TileN>(scores, q_descriptor + k_major_step(step, QRows), k_descriptor + k_major_step(step, TileN),
                            step != 0, where);
  }
}

// Added to the query address in a main loop: 0 for every key tile, which ptxas cannot know.
// NOTE: at head_dim 256 the 16 query descriptors do not change in the loop, so ptxas computes them before it; but they
// are more than the uniform registers hold, and each then comes back through an R2UR. Adding to a base costs less.
template <int HeadDim>
ATTNBENCH_DEVICE uint32_t hold_in_loop(int key_tile) {
  return HeadDim == 256 ? uint32_t(key_tile) >> 30 : 0u;  // there are fewer than 2^30 key tiles (abi.h)
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

// Bytes of a tile of `rows` rows of a 16-bit type.
ATTNBENCH_CONSTEXPR uint32_t tile_bytes(int head_dim, int rows) { return uint32_t(head_dim) / 64 * panel_bytes(rows); }

// Announces and starts the copy of `Rows` rows from `row` on of one (head, batch), panel by panel. One thread.
template <int HeadDim, int Rows>
ATTNBENCH_DEVICE void load_tile(uint32_t destination, const ptx::TensorMap* map, uint32_t barrier, int row, int head,
                                int batch, uint64_t cache_hint, Where where = ATTNBENCH_WHERE) {
  ptx::mbarrier_arrive_expect_tx(barrier, tile_bytes(HeadDim, Rows), where);
  ATTNBENCH_UNROLL
  for (int panel = 0; panel < HeadDim / 64; ++panel) {
    ptx::tma_load_4d(destination + panel * panel_bytes(Rows), map, barrier, panel * 64, row, head, batch, cache_hint,
                     where);
  }
}

}  // namespace attnbench
