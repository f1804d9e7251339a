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
#include <attnbench/turns.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim, bool Causal>
struct Config : SingleTileConfig<Type, HeadDim, Causal> {
  static constexpr const char* schedule = "pingpong";
  static constexpr int threads = (1 + Config::consumer_warpgroups) * WARPGROUP_THREADS;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_WARP_SPECIALIZED | ATTNBENCH_FLAG_PINGPONG;
};

// Mask and softmax of key tile j, and the output so far brought to the new maxima.
template <class C>
ATTNBENCH_DEVICE void softmax_tile(Consumer<C>& c, int j) {
  const ForwardParams& params = c.params;
  if (j >= unmasked_key_tiles<C::causal>(c.first_row(), C::tile_n, params.seqlen_q, params.seqlen_k)) {
    const VisibleKeys visible = visible_to_thread<C::causal>(c.thread, c.row(), params.seqlen_q, params.seqlen_k);
    mask_scores<C::causal>(c.scores, visible, j * C::tile_n);
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
  run_roles<C>(q_map, k_map, v_map, params, [&](const Addresses<C>& shared, const Tile& tile, int warpgroup) {
    Consumer<C> consumer{params, shared, tile, warpgroup, thread_index() % WARPGROUP_THREADS};
    consume(consumer);
  });
}

}  // namespace
}  // namespace attnbench

#define VARIANTS(V) ATTNBENCH_VARIANTS_16_BIT(V, fwd_pingpong, attnbench::Config)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
