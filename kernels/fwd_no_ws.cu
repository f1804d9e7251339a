// Forward attention, an ablation: the pipeline of level 4 without warp specialization.
//
// What it takes away from level 4: there is no producer warp. One thread of the first warpgroup starts the copies
// between issuing its products and waiting for them; it, and with it its whole warpgroup, waits whenever another
// warpgroup has not yet freed a stage. QK^T of key tile j, PV of tile j-1 and the softmax of tile j overlap within a
// warpgroup exactly as in level 4. One tile per CTA, no turns.
//
// Source: the ablation of FlashAttention-3 (Shah et al. 2024, table 2, "GEMM-Softmax Pipelining, No
// Warp-Specialization").
//
// Tiles and shared memory: single_tile.cuh. Registers come from the launch bound: 168 at head_dim 64, else up to 255.
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/output.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/single_tile.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim, bool Causal>
struct Config : SingleTileConfig<Type, HeadDim, Causal> {
  static constexpr const char* schedule = "no_ws";
  static constexpr int threads = Config::consumer_warpgroups * WARPGROUP_THREADS;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_OVERLAP;
};

// What one thread of the CTA does beside its own computing: starting copies.
template <class C>
struct Loader {
  const ptx::TensorMap &q_map, &k_map, &v_map;
  int kv_head;
  bool elected;
  RingPosition<C::stages> k_at, v_at;
};

template <class C>
ATTNBENCH_DEVICE void load_keys(Loader<C>& loader, const Consumer<C>& c, int j, Where where = ATTNBENCH_WHERE) {
  wait_empty(c.shared.k_empty, loader.k_at, where);
  load_tile<C::head_dim, C::tile_n>(c.shared.k_stage(loader.k_at.stage), &loader.k_map,
                                    c.shared.k_full + loader.k_at.stage * MBARRIER_BYTES, j * C::tile_n,
                                    loader.kv_head, c.tile.batch, ptx::EVICT_LAST, where);
  loader.k_at.advance();
}

template <class C>
ATTNBENCH_DEVICE void load_values(Loader<C>& loader, const Consumer<C>& c, int j, Where where = ATTNBENCH_WHERE) {
  wait_empty(c.shared.v_empty, loader.v_at, where);
  load_tile<C::head_dim, C::tile_n>(c.shared.v_stage(loader.v_at.stage), &loader.v_map,
                                    c.shared.v_full + loader.v_at.stage * MBARRIER_BYTES, j * C::tile_n,
                                    loader.kv_head, c.tile.batch, ptx::EVICT_LAST, where);
  loader.v_at.advance();
}

// Queries, keys 0 and 1, values 0.
template <class C>
ATTNBENCH_DEVICE void start_loads(Loader<C>& loader, const Consumer<C>& c) {
  load_tile<C::head_dim, C::tile_m>(c.shared.q, &loader.q_map, c.shared.q_full, c.tile.first_row, c.tile.head,
                                    c.tile.batch, ptx::EVICT_FIRST);
  load_keys(loader, c, 0);
  if (c.tile.key_tiles > 1) load_keys(loader, c, 1);
  load_values(loader, c, 0);
}

template <class C>
ATTNBENCH_DEVICE void mask_tile(Consumer<C>& c, int j) {
  const VisibleKeys visible = visible_to_thread<C::causal>(c.thread, c.row(), c.params.seqlen_q, c.params.seqlen_k);
  mask_scores<C::causal>(c.scores, visible, j * C::tile_n);
}

// As in level 4 (hold_above_wait): the wait needs the sums, so ptxas cannot move the exponentials below the wait for
// the product. The barrier of the CTA's only queries completes once and never moves on.
template <RowKeys Keys, class C>
ATTNBENCH_DEVICE void exponentiate_under_products(Consumer<C>& c) {
  exponentiate<Keys>(c.rows, c.scores, c.params.scale_log2);
  const bool never = c.rows.sum[0] < 0.0f || c.rows.sum[1] < 0.0f;
  wait_barrier(c.shared.q_full, uint32_t(never));
}

// Key tile j >= 1: scores of j, output of j - 1, softmax of j; and the copies for the step after.
template <bool Masked, class C>
ATTNBENCH_DEVICE void step(Consumer<C>& c, Loader<C>& loader, int j) {
  issue_scores(c, j);
  issue_output(c);
  if (loader.elected) {
    if (j + 1 < c.tile.key_tiles) load_keys(loader, c, j + 1);
    load_values(loader, c, j);
  }
  ptx::warp_sync();
  ptx::wgmma_wait_group<1>();
  release(c, c.shared.k_empty, c.k_at);
  if (Masked) mask_tile(c, j);
  float factor[ROWS_PER_THREAD];
  const bool grew = update_maximum(c.rows, c.scores, c.params.scale_log2, RESCALE_THRESHOLD_LOG2, factor);
  exponentiate_under_products<Masked ? RowKeys::maybe_none : RowKeys::some>(c);
  ptx::wgmma_wait_group<0>();
  release(c, c.shared.v_empty, c.v_at);
  pack_weights<C::dtype>(c.weights, c.scores);
  if (ptx::any_sync(grew)) scale_rows(c.output, factor);
}

template <class C>
ATTNBENCH_DEVICE void compute(Consumer<C>& c, Loader<C>& loader) {
  const int unmasked =
      unmasked_key_tiles<C::causal>(c.first_row(), C::tile_n, c.params.seqlen_q, c.params.seqlen_k);
  wait_barrier(c.shared.q_full, 0);
  issue_scores(c, 0);
  ptx::wgmma_wait_group<0>();
  release(c, c.shared.k_empty, c.k_at);
  if (unmasked == 0) mask_tile(c, 0);
  start_maximum(c.rows, c.scores, c.params.scale_log2);
  exponentiate<RowKeys::maybe_none>(c.rows, c.scores, c.params.scale_log2);
  pack_weights<C::dtype>(c.weights, c.scores);
  clear(c.output);

  int j = 1;
  ATTNBENCH_NO_UNROLL
  for (; j < unmasked && j < c.tile.key_tiles; ++j) step<false>(c, loader, j);
  ATTNBENCH_NO_UNROLL
  for (; j < c.tile.key_tiles; ++j) step<true>(c, loader, j);
  issue_output(c);
  ptx::wgmma_wait_group<0>();

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
  Consumer<C> consumer{params, shared, tile, warpgroup, thread_index() % WARPGROUP_THREADS};
  Loader<C> loader{q_map, k_map, v_map, tile.head / params.heads_per_kv_head, thread_index() == 0};
  if (loader.elected) start_loads(loader, consumer);
  ptx::warp_sync();
  compute(consumer, loader);
}

}  // namespace
}  // namespace attnbench

#define VARIANTS(V) ATTNBENCH_VARIANTS_16_BIT(V, fwd_no_ws, attnbench::Config)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
