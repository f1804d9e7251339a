// Forward attention, level 4 by pairs of CTAs that share keys and values: what the backend `hopper[multicast]` runs.
//
// What it adds to fwd_overlap.cu, whose pipeline, tiles and arithmetic it has:
// - Two CTAs form a cluster and take neighbouring tiles of query rows of one head. Each loads half of every key and
//   value tile, and TMA writes the half into the shared memory of both (pair.cuh). So L2 delivers half as many bytes
//   for the same products: 256 FLOP a byte instead of 128. FlashAttention-3 does so at head_dim 128 and more.
// - A consumer warpgroup hands a stage back to both producers: one of its two arrivals goes to the other CTA.
//
// Without a causal mask only: with one, neighbouring tiles take different numbers of keys. Whether it pays only
// hardware can say: L2 must be what limits `overlap`, and a pair waits for its slower CTA.
//
//   schedule     head_dim  causal  tile       stages  query buffers  output     shared memory  registers
//   multicast         128      no  128 x 176    2          1         registers     208 KiB       24 / 240
//                     256      no  128 x  80    2          1         registers     224 KiB       24 / 240
#include <attnbench/attention/consumer.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/pair.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim>
struct Config {
  static constexpr const char* schedule = "multicast";
  static constexpr Dtype dtype = Type;
  static constexpr int head_dim = HeadDim;
  static constexpr bool causal = false;
  static constexpr bool turns = HeadDim == 128;  // as in fwd_overlap.cu, so that the two differ in the loads alone
  using Exponentials = NoPolynomials;
  static constexpr int consumer_warpgroups = 2;
  static constexpr int tile_m = consumer_warpgroups * WARPGROUP_ROWS;
  static constexpr int tile_n = HeadDim == 128 ? 176 : 80;
  static constexpr int q_rows = WARPGROUP_ROWS;  // of one copy: each warpgroup's queries come on their own
  static constexpr int out_rows = WARP_ROWS;     // of the map that no copy uses
  static constexpr int stages = 2;
  static constexpr int q_stages = 1;
  static constexpr bool staged_output = false;
  static constexpr int threads = (1 + consumer_warpgroups) * WARPGROUP_THREADS;
  static constexpr int producer_registers = 24;
  static constexpr int consumer_registers = 240;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_WARP_SPECIALIZED | ATTNBENCH_FLAG_PERSISTENT |
                                    ATTNBENCH_FLAG_OVERLAP | ATTNBENCH_FLAG_MULTICAST |
                                    (turns ? uint32_t(ATTNBENCH_FLAG_PINGPONG) : 0u);
};

// ---- consumers -----------------------------------------------------------------------------------------------------

template <class C>
ATTNBENCH_DEVICE void issue_output(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  wait_full(c.shared.v_full(), c.v_at, where);
  ptx::wgmma_fence(where);
  issue_weights_value<C::dtype, C::head_dim, C::tile_n>(c.output, c.weights, c.shared.v(c.v_at.stage), where);
  ptx::wgmma_commit_group(where);
}

// Softmax of a tile's first scores: starts maxima and sums anew.
template <class C>
ATTNBENCH_DEVICE void start_softmax(Consumer<C>& c) {
  if (c.unmasked == 0) mask_tile(c, 0);
  start_maximum(c.rows, c.scores, c.params.scale_log2);
  exponentiate<RowKeys::some>(c.rows, c.scores, c.params.scale_log2);
  pack_weights<C::dtype>(c.weights, c.scores);
  clear(c.output);
}

// Key tile j >= 1 of the current tile: scores of j, output of j - 1, softmax of j.
template <bool Masked, class C>
ATTNBENCH_DEVICE void step(Consumer<C>& c, int j) {
  begin_turn(c);
  issue_scores(c, j);
  issue_output(c);
  end_turn(c);

  ptx::wgmma_wait_group<1>();
  release_shared_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_tile(c, j);
  float factor[ROWS_PER_THREAD];
  const bool grew = update_maximum(c.rows, c.scores, c.params.scale_log2, RESCALE_THRESHOLD_LOG2, factor);
  exponentiate_under_products<Masked>(c, c.params.scale_log2);
  ptx::wgmma_wait_group<0>();
  release_shared_values(c);
  // NOTE: only now: until its product is complete, the registers of the former weights must not change (C7513).
  pack_weights<C::dtype>(c.weights, c.scores);
  if (ptx::any_sync(grew)) scale_rows(c.output, factor);
}

template <class C>
ATTNBENCH_DEVICE void normalize_and_store(Consumer<C>& c, const Tile& tile, Where where = ATTNBENCH_WHERE) {
  float lse[ROWS_PER_THREAD];
  normalize(c.rows, c.output, lse);
  store_tile<C::dtype>(c, tile, lse, where);
}

// The end of a tile: its last PV, together with the first QK^T of the next tile, under which the output is stored.
// Returns false where there is no next tile.
template <class C>
ATTNBENCH_DEVICE bool finish_tile(Consumer<C>& c) {
  const Tile finished = c.tile;
  begin_turn(c);
  issue_output(c);
  const bool more = receive_tile(c);
  if (more) {
    issue_scores(c, 0);
    end_turn(c);
    ptx::wgmma_wait_group<1>();
    release_shared_values(c);
    normalize_and_store(c, finished);
    hold_above_wait(c, false);
    ptx::wgmma_wait_group<0>();
    release_shared_keys(c);
    release_queries_after(c, 0);
    start_softmax(c);
  } else {
    end_turn(c);
    ptx::wgmma_wait_group<0>();
    release_shared_values(c);
    normalize_and_store(c, finished);
  }
  return more;
}

template <class C>
ATTNBENCH_DEVICE void consume(Consumer<C>& c) {
  if (C::turns) open_turns<C::consumer_warpgroups>(c.warpgroup);
  receive_tile(c);  // every CTA has at least one
  issue_scores(c, 0);
  ptx::wgmma_wait_group<0>();
  release_shared_keys(c);
  release_queries_after(c, 0);
  start_softmax(c);
  do {
    int j = 1;
    ATTNBENCH_NO_UNROLL
    for (; j < c.unmasked && j < c.tile.key_tiles; ++j) step<false>(c, j);
    ATTNBENCH_NO_UNROLL
    for (; j < c.tile.key_tiles; ++j) step<true>(c, j);
  } while (finish_tile(c));
  if (C::turns) close_turns<C::consumer_warpgroups>(c.warpgroup);
}

// ---- kernel --------------------------------------------------------------------------------------------------------

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ptx::TensorMap& out_map, const ForwardParams& params) {
  run_pair_roles<C>(q_map, k_map, v_map, out_map, params, [&](const Addresses<C>& shared, int warpgroup) {
    Consumer<C> consumer{out_map, params, shared, warpgroup, thread_index() % WARPGROUP_THREADS};
    consume(consumer);
  });
}

}  // namespace
}  // namespace attnbench

#define MULTICAST(dtype, head_dim) attnbench::Config<attnbench::Dtype::dtype, head_dim>
#define VARIANTS(V)                                  \
  V(fwd_multicast_fp16_d128, MULTICAST(fp16, 128))   \
  V(fwd_multicast_bf16_d128, MULTICAST(bf16, 128))   \
  V(fwd_multicast_fp16_d256, MULTICAST(fp16, 256))   \
  V(fwd_multicast_bf16_d256, MULTICAST(bf16, 256))

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
