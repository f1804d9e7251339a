// Forward attention, level 4: what the backend `hopper` runs.
//
// What it adds to level 3:
// - Overlap within a warpgroup: QK^T of key tile j and PV of tile j-1 are in flight together, and the softmax of tile j
//   runs as soon as its scores are there, under the PV product (FlashAttention-3, Shah et al. 2024, section 3.2,
//   Algorithm 2). What keeps ptxas from sinking the exponentials below the last wgmma wait: hold_above_wait().
// - Persistent CTAs: one per multiprocessor, tiles in an order that shares keys in L2; causal tiles longest first,
//   dealt out by an atomic counter (scheduler.cuh).
// - Overlap across tiles: the last PV of a tile and the first QK^T of the next are issued together, and the finished
//   output is stored under the latter. The next queries are loaded as soon as the last QK^T has read the present ones,
//   or into a second buffer where it fits.
// - The output is rescaled only when a maximum grew by more than 2^8 (softmax.cuh), which is rare.
// - The output leaves by stmatrix and TMA, each warp on its own, with the wait for the copy deferred to the next tile;
//   where shared memory is full, straight from registers.
//
//   schedule     head_dim  causal  tile       stages  query buffers  output     shared memory  registers
//   overlap            64     any  192 x 128    3          2         staged        168 KiB       32 / 160
//                     128      no  128 x 176    2          1         registers     208 KiB       24 / 240
//                     128     yes  128 x 128    2          2         staged        224 KiB       24 / 240
//                     256     any  128 x  80    2          1         registers     224 KiB       24 / 240
//   no_overlap     the same tiles; products and softmax of a warpgroup strictly one after the other (the paper's
//                  ablation, table 2)
//   n128              128      no  as causal: to be measured against 128 x 176
//   m128               64     any  128 x 192    3          2         staged        192 KiB       24 / 240
//   no_turns     64, 128    any  as overlap, without turns
//   no_polynomial     64    any  as overlap, every exponential by the multi-function unit (elsewhere overlap is so too)
#include <attnbench/attention/consumer.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

enum class Schedule { overlap, no_overlap, n128, m128, no_turns, no_polynomial };

constexpr const char* schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::overlap: return "overlap";
    case Schedule::no_overlap: return "no_overlap";
    case Schedule::n128: return "n128";
    case Schedule::m128: return "m128";
    case Schedule::no_turns: return "no_turns";
    case Schedule::no_polynomial: return "no_polynomial";
  }
  return "";
}

template <Dtype Type, int HeadDim, bool Causal, Schedule S>
struct Config {
  static constexpr const char* schedule = schedule_name(S);
  static constexpr Dtype dtype = Type;
  static constexpr int head_dim = HeadDim;
  static constexpr bool causal = Causal;
  static constexpr bool overlap = S != Schedule::no_overlap;
  // At head_dim 256 the products alone take most of the time, and the two warpgroups fill each other's gaps unasked.
  static constexpr bool turns = HeadDim != 256 && S != Schedule::no_turns;
  // At head_dim 64 every exponential by the multi-function unit takes 1.03 times the clocks of the tensor cores. Of
  // eight one by a polynomial brings that to 0.91, and issue slots to 0.88. fp16 rounds finer, and has one term more.
  using Exponentials = std::conditional_t<HeadDim == 64 && S != Schedule::no_polynomial,
                                          Polynomials<8, Type == Dtype::fp16 ? 4 : 3>, NoPolynomials>;
  static constexpr int consumer_warpgroups = HeadDim == 64 && S != Schedule::m128 ? 3 : 2;
  static constexpr int tile_m = consumer_warpgroups * WARPGROUP_ROWS;
  static constexpr int tile_n = HeadDim == 256                                     ? 80
                                : S == Schedule::m128                              ? 192
                                : HeadDim == 128 && !Causal && S != Schedule::n128 ? 176
                                                                                   : 128;
  static constexpr int q_rows = WARPGROUP_ROWS;  // of one copy: each warpgroup's queries come on their own
  static constexpr int out_rows = WARP_ROWS;     // of one copy: each warp stores on its own
  static constexpr int stages = HeadDim == 64 ? 3 : 2;
  // Shared memory left beside the stages decides on these two.
  static constexpr bool room = HeadDim == 64 || (HeadDim == 128 && tile_n == 128);
  static constexpr int q_stages = room ? 2 : 1;
  static constexpr bool staged_output = room;
  static constexpr int threads = (1 + consumer_warpgroups) * WARPGROUP_THREADS;
  // Sum over warpgroups within the CTA's pool: 65536 / threads per thread, rounded down to a multiple of 8.
  static constexpr int producer_registers = consumer_warpgroups == 3 ? 32 : 24;
  static constexpr int consumer_registers = consumer_warpgroups == 3 ? 160 : 240;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_WARP_SPECIALIZED | ATTNBENCH_FLAG_PERSISTENT |
                                    (overlap ? uint32_t(ATTNBENCH_FLAG_OVERLAP) : 0u) |
                                    (Exponentials::every > 0 ? uint32_t(ATTNBENCH_FLAG_POLYNOMIAL) : 0u) |
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
  exponentiate<RowKeys::maybe_none>(c.rows, c.scores, c.params.scale_log2);
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
  release_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_tile(c, j);
  float factor[ROWS_PER_THREAD];
  const bool grew = update_maximum<PolynomialsOf<Masked, C>>(c.rows, c.scores, c.params.scale_log2,
                                                             RESCALE_THRESHOLD_LOG2, factor);
  exponentiate_under_products<Masked>(c, c.params.scale_log2);
  ptx::wgmma_wait_group<0>();
  release_values(c);
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
  release_queries_at_end(c);
  begin_turn(c);
  issue_output(c);
  const bool more = receive_tile(c);
  if (more) {
    issue_scores(c, 0);
    end_turn(c);
    ptx::wgmma_wait_group<1>();
    release_values(c);
    normalize_and_store(c, finished);
    hold_above_wait(c, false);
    ptx::wgmma_wait_group<0>();
    release_keys(c);
    release_queries_after(c, 0);
    start_softmax(c);
  } else {
    end_turn(c);
    ptx::wgmma_wait_group<0>();
    release_values(c);
    normalize_and_store(c, finished);
  }
  return more;
}

template <class C>
ATTNBENCH_DEVICE void consume_overlapped(Consumer<C>& c) {
  receive_tile(c);  // every CTA has at least one
  issue_scores(c, 0);
  ptx::wgmma_wait_group<0>();
  release_keys(c);
  release_queries_after(c, 0);
  start_softmax(c);
  do {
    int j = 1;
    ATTNBENCH_NO_UNROLL
    for (; j < c.unmasked && j < c.tile.key_tiles; ++j) step<false>(c, j);
    ATTNBENCH_NO_UNROLL
    for (; j < c.tile.key_tiles; ++j) step<true>(c, j);
  } while (finish_tile(c));
}

// One key tile of the ablation: products and softmax strictly one after the other.
template <bool Masked, class C>
ATTNBENCH_DEVICE void serial_step(Consumer<C>& c, int j) {
  begin_turn(c);
  issue_scores(c, j);
  end_turn(c);
  ptx::wgmma_wait_group<0>();
  release_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_tile(c, j);
  float factor[ROWS_PER_THREAD];
  using P = PolynomialsOf<Masked, C>;
  const bool grew = update_maximum<P>(c.rows, c.scores, c.params.scale_log2, RESCALE_THRESHOLD_LOG2, factor);
  exponentiate<Masked ? RowKeys::maybe_none : RowKeys::some, P>(c.rows, c.scores, c.params.scale_log2);
  pack_weights<C::dtype>(c.weights, c.scores);
  if (ptx::any_sync(grew)) scale_rows(c.output, factor);
  issue_output(c);
  ptx::wgmma_wait_group<0>();
  release_values(c);
}

template <class C>
ATTNBENCH_DEVICE void consume_serially(Consumer<C>& c) {
  receive_tile(c);  // every CTA has at least one
  do {
    c.rows = EMPTY_ROWS;
    clear(c.output);
    int j = 0;
    ATTNBENCH_NO_UNROLL
    for (; j < c.unmasked && j < c.tile.key_tiles; ++j) serial_step<false>(c, j);
    ATTNBENCH_NO_UNROLL
    for (; j < c.tile.key_tiles; ++j) serial_step<true>(c, j);
    release_queries_at_end(c);
    normalize_and_store(c, c.tile);
  } while (receive_tile(c));
}

template <class C>
ATTNBENCH_DEVICE void consume(Consumer<C>& c) {
  if (C::turns) open_turns<C::consumer_warpgroups>(c.warpgroup);
  if constexpr (C::overlap) {
    consume_overlapped(c);
  } else {
    consume_serially(c);
  }
  if (C::turns) close_turns<C::consumer_warpgroups>(c.warpgroup);
  if (C::staged_output && ptx::elect_one()) ptx::bulk_wait_group<0>();  // shared memory must outlive the copies
}

// ---- kernel --------------------------------------------------------------------------------------------------------

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ptx::TensorMap& out_map, const ForwardParams& params) {
  run_roles<C>(q_map, k_map, v_map, out_map, params, [&](const Addresses<C>& shared, int warpgroup) {
    Consumer<C> consumer{out_map, params, shared, warpgroup, thread_index() % WARPGROUP_THREADS};
    consume(consumer);
  });
}

}  // namespace
}  // namespace attnbench

#define OVERLAP(dtype, head_dim, causal, schedule) \
  attnbench::Config<attnbench::Dtype::dtype, head_dim, causal, attnbench::Schedule::schedule>
// One schedule at one head_dim: fp16 and bf16, causal and not.
#define VARIANTS_OF(V, schedule, head_dim)                                                         \
  V(fwd_##schedule##_fp16_d##head_dim, OVERLAP(fp16, head_dim, false, schedule))                   \
  V(fwd_##schedule##_fp16_d##head_dim##_causal, OVERLAP(fp16, head_dim, true, schedule))           \
  V(fwd_##schedule##_bf16_d##head_dim, OVERLAP(bf16, head_dim, false, schedule))                   \
  V(fwd_##schedule##_bf16_d##head_dim##_causal, OVERLAP(bf16, head_dim, true, schedule))
// Tuning alternatives: bf16 is enough to decide.
#define VARIANTS_TUNING(V, schedule, head_dim)                                                     \
  V(fwd_##schedule##_bf16_d##head_dim, OVERLAP(bf16, head_dim, false, schedule))                   \
  V(fwd_##schedule##_bf16_d##head_dim##_causal, OVERLAP(bf16, head_dim, true, schedule))
#define VARIANTS(V)                                      \
  VARIANTS_OF(V, overlap, 64)                            \
  VARIANTS_OF(V, overlap, 128)                           \
  VARIANTS_OF(V, overlap, 256)                           \
  VARIANTS_OF(V, no_overlap, 64)                         \
  VARIANTS_OF(V, no_overlap, 128)                        \
  VARIANTS_OF(V, no_overlap, 256)                        \
  V(fwd_n128_bf16_d128, OVERLAP(bf16, 128, false, n128)) \
  VARIANTS_TUNING(V, m128, 64)                           \
  VARIANTS_TUNING(V, no_turns, 64)                       \
  VARIANTS_TUNING(V, no_turns, 128)                      \
  VARIANTS_TUNING(V, no_polynomial, 64)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
