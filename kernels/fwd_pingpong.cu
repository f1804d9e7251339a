// Forward attention, level 3: ping-pong between warpgroups.
//
// What it adds to level 2: warpgroups take turns in issuing their products, so that the softmax of one runs while the
// products of another have the tensor cores, by order and not by chance. For a turn to hold enough work, PV of key tile
// j-1 moves next to QK^T of tile j: a turn issues both, and the softmax of tile j follows outside it. Within a
// warpgroup nothing overlaps yet: it waits for both products before its softmax.
//
// Algorithm: FlashAttention-3 (Shah et al. 2024, section 3.1, "Pingpong scheduling" and figure 1).
//
// Tiles and shared memory: single_tile.cuh.
#include <attnbench/forward.h>
#include <attnbench/mask.cuh>
#include <attnbench/output.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/products.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/registers.cuh>
#include <attnbench/scheduler.cuh>
#include <attnbench/single_tile.cuh>
#include <attnbench/softmax.cuh>
#include <attnbench/turns.cuh>
#include <attnbench/variants.h>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim, bool Causal>
struct Config : SingleTileConfig<Type, HeadDim, Causal> {
  static constexpr const char* schedule = "pingpong";
  static constexpr int threads = (1 + Config::consumer_warpgroups) * WARPGROUP_THREADS;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_WARP_SPECIALIZED | ATTNBENCH_FLAG_PINGPONG;
};

// One consumer warpgroup: 64 query rows against all keys of the tile.
template <class C>
struct Consumer {
  const ForwardParams& params;
  Addresses<C> shared;
  Tile tile;
  int warpgroup;
  int thread;  // within the warpgroup
  RingPosition<C::stages> k_at, v_at;
  float scores[C::tile_n / 2];  // then, in place, the weights
  uint32_t weights[C::tile_n / STEP_K][4];
  float output[C::head_dim / 2];
  SoftmaxRows rows;

  ATTNBENCH_DEVICE_MEMBER int first_row() const { return tile.first_row + warpgroup * WARPGROUP_ROWS; }
  ATTNBENCH_DEVICE_MEMBER int row() const { return first_row() + accumulator_row(thread, 0); }
};

template <class C>
ATTNBENCH_DEVICE void issue_scores(Consumer<C>& c, int j, Where where = ATTNBENCH_WHERE) {
  const uint32_t q = c.shared.q + c.warpgroup * panel_bytes(WARPGROUP_ROWS);
  wait_full(c.shared.k_full, c.k_at, where);
  ptx::wgmma_fence(where);
  issue_query_key<C::dtype, C::head_dim, C::tile_n, C::tile_m>(c.scores, q, c.shared.k_stage(c.k_at.stage),
                                                               hold_in_loop<C::head_dim>(j), where);
  ptx::wgmma_commit_group(where);
}

template <class C>
ATTNBENCH_DEVICE void issue_output(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  wait_full(c.shared.v_full, c.v_at, where);
  ptx::wgmma_fence(where);
  issue_weights_value<C::dtype, C::head_dim, C::tile_n>(c.output, c.weights, c.shared.v_stage(c.v_at.stage), where);
  ptx::wgmma_commit_group(where);
}

// After the wait for the products. One arrival speaks for the warpgroup: a wgmma-group is formed, and completes, per
// warpgroup (PTX ISA, wgmma.commit_group).
template <class C>
ATTNBENCH_DEVICE void release(const Consumer<C>& c, uint32_t empty, RingPosition<C::stages>& at,
                              Where where = ATTNBENCH_WHERE) {
  if (c.thread == 0) ptx::mbarrier_arrive(empty + at.stage * MBARRIER_BYTES, where);
  at.advance();
}

// Mask and softmax of key tile j, and the output so far brought to the new maxima.
template <class C>
ATTNBENCH_DEVICE void softmax_tile(Consumer<C>& c, int j) {
  const ForwardParams& params = c.params;
  if (j >= unmasked_key_tiles<C::causal>(c.first_row(), C::tile_n, params.seqlen_q, params.seqlen_k)) {
    mask_scores<C::causal>(c.scores, c.thread, c.row(), j * C::tile_n, params.seqlen_q, params.seqlen_k);
  }
  float factor[ROWS_PER_THREAD];
  update_maximum(c.rows, c.scores, params.scale_log2, RESCALE_ALWAYS, factor);
  exponentiate<RowKeys::maybe_none>(c.rows, c.scores, params.scale_log2);
  scale_rows(c.output, factor);
  pack_weights<C::dtype>(c.weights, c.scores);
}

template <class C>
ATTNBENCH_DEVICE void consume(Consumer<C>& c) {
  open_turns<C::consumer_warpgroups>(c.warpgroup);
  clear(c.output);
  c.rows = EMPTY_ROWS;

  wait_barrier(c.shared.q_full, 0);
  issue_scores(c, 0);
  ptx::wgmma_wait_group<0>();
  release(c, c.shared.k_empty, c.k_at);
  softmax_tile(c, 0);
  ATTNBENCH_NO_UNROLL
  for (int j = 1; j < c.tile.key_tiles; ++j) {
    take_turn(c.warpgroup);
    issue_scores(c, j);
    issue_output(c);
    pass_turn<C::consumer_warpgroups>(c.warpgroup);
    ptx::wgmma_wait_group<0>();
    release(c, c.shared.k_empty, c.k_at);
    release(c, c.shared.v_empty, c.v_at);
    softmax_tile(c, j);
  }
  issue_output(c);
  ptx::wgmma_wait_group<0>();
  close_turns<C::consumer_warpgroups>(c.warpgroup);

  float lse[ROWS_PER_THREAD];
  normalize(c.rows, c.output, lse);
  store_lse(c.params, lse, c.thread, c.row(), c.tile.head, c.tile.batch);
  store_output_wide<C::dtype>(c.params, c.output, c.thread, c.row(), c.tile.head, c.tile.batch);
}

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ptx::TensorMap&, const ForwardParams& params) {
  const Addresses<C> shared = addresses<C>(shared_base());
  if (thread_index() == 0) init_all_barriers(shared);
  ptx::cta_sync();

  const Tile tile = tile_at<C::causal, C::tile_m, C::tile_n>(params, block_index());
  // NOTE: through a shuffle, so that ptxas knows the value to be the same in the whole warp and keeps descriptors in
  // uniform registers.
  const int warpgroup = ptx::shuffle_index(thread_index() / WARPGROUP_THREADS, 0);
  if (warpgroup == 0) {
    ptx::setmaxnreg_dec<C::producer_registers>();
    if (thread_index() < WARP_THREADS && ptx::elect_one()) produce<C>(q_map, k_map, v_map, params, shared, tile);
  } else {
    ptx::setmaxnreg_inc<C::consumer_registers>();
    Consumer<C> consumer{params, shared, tile, warpgroup - 1, thread_index() % WARPGROUP_THREADS};
    consume(consumer);
  }
}

}  // namespace
}  // namespace attnbench

#define VARIANTS(V) ATTNBENCH_VARIANTS_16_BIT(V, fwd_pingpong, attnbench::Config)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
