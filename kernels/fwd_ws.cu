// Forward attention, level 2: warp specialization.
//
// What it adds to level 1: one warp does nothing but start TMA copies into a ring of shared-memory stages, and two or
// three further warpgroups do nothing but compute, each on its own 64 query rows against the same keys and values.
// Loads thus run ahead of the products by the depth of the ring, and warpgroups are free to drift apart, so that one
// can be in its softmax while another is in its products. The producer hands most of its registers to the consumers
// (setmaxnreg), which is what makes tiles this large possible.
//
// Algorithm: FlashAttention-3 (Shah et al. 2024, section 3.1, Algorithm 1), without its ping-pong and pipelining.
//
// Tiles and shared memory: single_tile.cuh.
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/output.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/registers.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/single_tile.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim, bool Causal>
struct Config : SingleTileConfig<Type, HeadDim, Causal> {
  static constexpr const char* schedule = "ws";
  static constexpr int threads = (1 + Config::consumer_warpgroups) * WARPGROUP_THREADS;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_WARP_SPECIALIZED;
};

// Scores of key tile j to weights; brings the output so far to the new row maxima.
template <class C>
ATTNBENCH_DEVICE void softmax_tile(const ForwardParams& params, float (&scores)[C::tile_n / 2],
                                   uint32_t (&weights)[C::tile_n / STEP_K][4], float (&output)[C::head_dim / 2],
                                   SoftmaxRows& rows, int thread, int first_row, int j) {
  if (j >= unmasked_key_tiles<C::causal>(first_row, C::tile_n, params.seqlen_q, params.seqlen_k)) {
    const int row = first_row + accumulator_row(thread, 0);
    const VisibleKeys visible = visible_to_thread<C::causal>(thread, row, params.seqlen_q, params.seqlen_k);
    mask_scores<C::causal>(scores, visible, j * C::tile_n);
  }
  float factor[ROWS_PER_THREAD];
  update_maximum(rows, scores, params.scale_log2, RESCALE_ALWAYS, factor);
  exponentiate<RowKeys::maybe_none>(rows, scores, params.scale_log2);
  scale_rows(output, factor);
  pack_weights<C::dtype>(weights, scores);
}

// One warpgroup: 64 query rows against all keys of the tile. One arrival speaks for the warpgroup when it is done with
// a stage: a wgmma-group is formed, and completes, per warpgroup (PTX ISA, wgmma.commit_group).
template <class C>
ATTNBENCH_DEVICE void consume(const ForwardParams& params, const Addresses<C>& shared, const Tile& tile,
                              int warpgroup) {
  const int thread = thread_index() % WARPGROUP_THREADS;
  const int first_row = tile.first_row + warpgroup * WARPGROUP_ROWS;
  const uint32_t q = shared.q + warpgroup * panel_bytes(WARPGROUP_ROWS);

  float output[C::head_dim / 2];
  clear(output);
  SoftmaxRows rows = EMPTY_ROWS;
  RingPosition<C::stages> at;
  wait_barrier(shared.q_full, 0);
  ATTNBENCH_NO_UNROLL
  for (int j = 0; j < tile.key_tiles; ++j) {
    float scores[C::tile_n / 2];
    uint32_t weights[C::tile_n / STEP_K][4];
    wait_full(shared.k_full, at);
    ptx::wgmma_fence();
    issue_query_key<C::dtype, C::head_dim, C::tile_n, C::tile_m>(scores, q, shared.k_stage(at.stage));
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    if (thread == 0) ptx::mbarrier_arrive(shared.k_empty + at.stage * MBARRIER_BYTES);
    softmax_tile<C>(params, scores, weights, output, rows, thread, first_row, j);

    wait_full(shared.v_full, at);
    ptx::wgmma_fence();
    issue_weights_value<C::dtype, C::head_dim, C::tile_n>(output, weights, shared.v_stage(at.stage));
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    if (thread == 0) ptx::mbarrier_arrive(shared.v_empty + at.stage * MBARRIER_BYTES);
    at.advance();
  }

  const int row = first_row + accumulator_row(thread, 0);
  float lse[ROWS_PER_THREAD];
  normalize(rows, output, lse);
  store_lse(params, lse, thread, row, tile.head, tile.batch);
  store_output_wide<C::dtype>(params, output, thread, row, tile.head, tile.batch);
}

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ptx::TensorMap&, const ForwardParams& params) {
  run_roles<C>(q_map, k_map, v_map, params, [&](const Addresses<C>& shared, const Tile& tile, int warpgroup) {
    consume<C>(params, shared, tile, warpgroup);
  });
}

}  // namespace
}  // namespace attnbench

#define VARIANTS(V) ATTNBENCH_VARIANTS_16_BIT(V, fwd_ws, attnbench::Config)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
