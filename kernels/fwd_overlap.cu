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
//   softmax_turns  64, 128    any  as overlap, but warpgroups take turns in the softmax instead of the products
//   no_turns       64, 128    any  as overlap, without turns
#include <attnbench/forward.h>
#include <attnbench/mask.cuh>
#include <attnbench/output.cuh>
#include <attnbench/persistent.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/products.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/registers.cuh>
#include <attnbench/scheduler.cuh>
#include <attnbench/softmax.cuh>
#include <attnbench/turns.cuh>
#include <attnbench/variants.h>

namespace attnbench {
namespace {

// What warpgroups take turns in, so that one computes its softmax while another has the tensor cores.
enum class Turns { none, products, softmax };

enum class Schedule { overlap, no_overlap, n128, m128, softmax_turns, no_turns };

constexpr const char* schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::overlap: return "overlap";
    case Schedule::no_overlap: return "no_overlap";
    case Schedule::n128: return "n128";
    case Schedule::m128: return "m128";
    case Schedule::softmax_turns: return "softmax_turns";
    case Schedule::no_turns: return "no_turns";
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
  static constexpr Turns turns = HeadDim == 256 || S == Schedule::no_turns ? Turns::none
                                 : S == Schedule::softmax_turns            ? Turns::softmax
                                                                           : Turns::products;
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
                                    (turns != Turns::none ? uint32_t(ATTNBENCH_FLAG_PINGPONG) : 0u);
};

// ---- consumers -----------------------------------------------------------------------------------------------------

// One consumer warpgroup: 64 query rows of each tile.
template <class C>
struct Consumer {
  const ptx::TensorMap& out_map;
  const ForwardParams& params;
  Addresses<C> shared;
  int warpgroup;
  int thread;  // within the warpgroup
  RingPosition<C::q_stages> q_at;
  RingPosition<C::stages> k_at, v_at;
  Tile tile;
  int unmasked;  // leading key tiles that need no mask
  float scores[C::tile_n / 2];  // then, in place, the weights
  uint32_t weights[C::tile_n / STEP_K][4];
  float output[C::head_dim / 2];
  SoftmaxRows rows;

  ATTNBENCH_DEVICE_MEMBER int first_row() const { return tile.first_row + warpgroup * WARPGROUP_ROWS; }
  ATTNBENCH_DEVICE_MEMBER int row() const { return first_row() + accumulator_row(thread, 0); }
};

template <class C>
ATTNBENCH_DEVICE void begin_turn(const Consumer<C>& c, Turns turns, Where where = ATTNBENCH_WHERE) {
  if (C::turns == turns) take_turn(c.warpgroup, where);
}

template <class C>
ATTNBENCH_DEVICE void end_turn(const Consumer<C>& c, Turns turns, Where where = ATTNBENCH_WHERE) {
  if (C::turns == turns) pass_turn<C::consumer_warpgroups>(c.warpgroup, where);
}

template <class C>
ATTNBENCH_DEVICE void issue_scores(Consumer<C>& c, int j, Where where = ATTNBENCH_WHERE) {
  const uint32_t q = c.shared.q(c.warpgroup, c.q_at.stage) + hold_in_loop<C::head_dim>(j);
  wait_full(c.shared.k_full(), c.k_at, where);
  ptx::wgmma_fence(where);  // NOTE: after the wait loop; before it, ptxas injects another (C7519)
  issue_query_key<C::dtype, C::head_dim, C::tile_n, WARPGROUP_ROWS>(c.scores, q, c.shared.k(c.k_at.stage), where);
  ptx::wgmma_commit_group(where);
}

template <class C>
ATTNBENCH_DEVICE void issue_output(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  wait_full(c.shared.v_full(), c.v_at, where);
  ptx::wgmma_fence(where);
  issue_weights_value<C::dtype, C::head_dim, C::tile_n>(c.output, c.weights, c.shared.v(c.v_at.stage), where);
  ptx::wgmma_commit_group(where);
}

// After the wait for the product that read it. One arrival speaks for the warpgroup: a wgmma-group is formed, and
// completes, per warpgroup (PTX ISA, wgmma.commit_group).
template <class C>
ATTNBENCH_DEVICE void release_keys(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  if (c.thread == 0) ptx::mbarrier_arrive(c.shared.k_empty() + c.k_at.stage * MBARRIER_BYTES, where);
  c.k_at.advance();
}

template <class C>
ATTNBENCH_DEVICE void release_values(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  if (c.thread == 0) ptx::mbarrier_arrive(c.shared.v_empty() + c.v_at.stage * MBARRIER_BYTES, where);
  c.v_at.advance();
}

// Gets the next tile; its queries have landed. Returns false where there is none.
template <class C>
ATTNBENCH_DEVICE bool receive_tile(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  wait_full(c.shared.q_full(c.warpgroup), c.q_at, where);
  c.tile = read_tile(c.shared.tile(c.warpgroup, c.q_at.stage), where);
  c.unmasked = unmasked_key_tiles<C::causal>(c.first_row(), C::tile_n, c.params.seqlen_q, c.params.seqlen_k);
  return c.tile.first_row != NO_TILE;
}

// When the last product that reads the queries is done: their buffer and the tile's slot are free. One arrival per
// warp, since each warp read the slot itself; after warp_sync, since each lane did.
template <class C>
ATTNBENCH_DEVICE void release_queries(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  ptx::warp_sync(where);
  if (c.thread % WARP_THREADS == 0) {
    ptx::mbarrier_arrive(c.shared.q_empty(c.warpgroup) + c.q_at.stage * MBARRIER_BYTES, where);
  }
  c.q_at.advance();
}

// After QK^T of key tile j. With a single buffer the next queries can only come now: at once, so that they arrive under
// the last softmax. With two they are there already, and the test is left out of the main loop.
template <class C>
ATTNBENCH_DEVICE void release_queries_after(Consumer<C>& c, int j, Where where = ATTNBENCH_WHERE) {
  if (C::q_stages == 1 && j + 1 == c.tile.key_tiles) release_queries(c, where);
}

template <class C>
ATTNBENCH_DEVICE void release_queries_at_end(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  if (C::q_stages > 1) release_queries(c, where);
}

template <class C>
ATTNBENCH_DEVICE void mask_tile(Consumer<C>& c, int j) {
  mask_scores<C::causal>(c.scores, c.thread, c.row(), j * C::tile_n, c.params.seqlen_q, c.params.seqlen_k);
}

// Softmax of a tile's first scores: starts maxima and sums anew.
template <class C>
ATTNBENCH_DEVICE void start_softmax(Consumer<C>& c) {
  if (c.unmasked == 0) mask_tile(c, 0);
  start_maximum(c.rows, c.scores, c.params.scale_log2);
  begin_turn(c, Turns::softmax);
  exponentiate<RowKeys::maybe_none>(c.rows, c.scores, c.params.scale_log2);
  end_turn(c, Turns::softmax);
  pack_weights<C::dtype>(c.weights, c.scores);
  clear(c.output);
}

// Divides, rounds and stores the finished output of `tile`, and its LSE.
template <class C>
ATTNBENCH_DEVICE void store_tile(Consumer<C>& c, const Tile& tile, Where where = ATTNBENCH_WHERE) {
  const int first_row = tile.first_row + c.warpgroup * WARPGROUP_ROWS;
  const int row = first_row + accumulator_row(c.thread, 0);
  float lse[ROWS_PER_THREAD];
  normalize(c.rows, c.output, lse);
  store_lse(c.params, lse, c.thread, row, tile.head, tile.batch);
  if constexpr (C::staged_output) {
    const int warp_row = c.thread / WARP_THREADS * WARP_ROWS;
    const uint32_t staging = c.shared.out(c.warpgroup) + panel_bytes(warp_row);
    const bool elected = ptx::elect_one(where);
    if (elected) ptx::bulk_wait_group_read<0>(where);  // the copy of the tile before, long done
    ptx::warp_sync(where);
    stage_output<C::dtype, WARPGROUP_ROWS>(staging, c.output, c.thread % WARP_THREADS, where);
    ptx::fence_proxy_async_shared(where);
    ptx::warp_sync(where);
    if (elected) {
      ATTNBENCH_UNROLL
      for (int panel = 0; panel < C::head_dim / 64; ++panel) {
        ptx::tma_store_4d(&c.out_map, staging + panel * panel_bytes(WARPGROUP_ROWS), panel * 64, first_row + warp_row,
                          tile.head, tile.batch, where);
      }
      ptx::bulk_commit_group(where);
    }
  } else {
    store_output_wide<C::dtype>(c.params, c.output, c.thread, row, tile.head, tile.batch, where);
  }
}

// Keeps what stands above this call above a wgmma_wait_group that follows it.
// NOTE: ptxas moves arithmetic and stores freely below wgmma_wait_group, and so out of the shadow of the products in
// flight. Nothing that `never` depends on, and no store, does it move below a loop that waits for a barrier. This
// barrier has completed for good at the start, so the loop ends at once. `never` is false, which ptxas must not know.
// NOTE: not a barrier of the pipeline: one that has been waited for may move on before the last warp tests it again.
template <class C>
ATTNBENCH_DEVICE void hold_above_wait(const Consumer<C>& c, bool never, Where where = ATTNBENCH_WHERE) {
  wait_barrier(c.shared.complete(), uint32_t(never), where);
}

// Exponentials of tile j while PV of tile j-1 is in flight. The static inspection checks that every one of them stands
// before the wait for that product.
template <RowKeys Keys, class C>
ATTNBENCH_DEVICE void exponentiate_under_products(Consumer<C>& c) {
  begin_turn(c, Turns::softmax);
  exponentiate<Keys>(c.rows, c.scores, c.params.scale_log2);
  hold_above_wait(c, c.rows.sum[0] < 0.0f || c.rows.sum[1] < 0.0f);  // no sum is negative, nor does NaN compare
  end_turn(c, Turns::softmax);
}

// Key tile j >= 1 of the current tile: scores of j, output of j - 1, softmax of j.
template <bool Masked, class C>
ATTNBENCH_DEVICE void step(Consumer<C>& c, int j) {
  begin_turn(c, Turns::products);
  issue_scores(c, j);
  issue_output(c);
  end_turn(c, Turns::products);

  ptx::wgmma_wait_group<1>();
  release_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_tile(c, j);
  float factor[ROWS_PER_THREAD];
  const bool grew = update_maximum(c.rows, c.scores, c.params.scale_log2, RESCALE_THRESHOLD_LOG2, factor);
  exponentiate_under_products<Masked ? RowKeys::maybe_none : RowKeys::some>(c);
  ptx::wgmma_wait_group<0>();
  release_values(c);
  // NOTE: only now: until its product is complete, the registers of the former weights must not change (C7513).
  pack_weights<C::dtype>(c.weights, c.scores);
  if (ptx::any_sync(grew)) scale_rows(c.output, factor);
}

// The end of a tile: its last PV, together with the first QK^T of the next tile, under which the output is stored.
// Returns false where there is no next tile.
template <class C>
ATTNBENCH_DEVICE bool finish_tile(Consumer<C>& c) {
  const Tile finished = c.tile;
  release_queries_at_end(c);
  begin_turn(c, Turns::products);
  issue_output(c);
  const bool more = receive_tile(c);
  if (more) {
    issue_scores(c, 0);
    end_turn(c, Turns::products);
    ptx::wgmma_wait_group<1>();
    release_values(c);
    store_tile(c, finished);
    hold_above_wait(c, false);
    ptx::wgmma_wait_group<0>();
    release_keys(c);
    release_queries_after(c, 0);
    start_softmax(c);
  } else {
    end_turn(c, Turns::products);
    ptx::wgmma_wait_group<0>();
    release_values(c);
    store_tile(c, finished);
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
  begin_turn(c, Turns::products);
  issue_scores(c, j);
  end_turn(c, Turns::products);
  ptx::wgmma_wait_group<0>();
  release_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_tile(c, j);
  float factor[ROWS_PER_THREAD];
  const bool grew = update_maximum(c.rows, c.scores, c.params.scale_log2, RESCALE_THRESHOLD_LOG2, factor);
  exponentiate<Masked ? RowKeys::maybe_none : RowKeys::some>(c.rows, c.scores, c.params.scale_log2);
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
    store_tile(c, c.tile);
  } while (receive_tile(c));
}

template <class C>
ATTNBENCH_DEVICE void consume(Consumer<C>& c) {
  if (C::turns != Turns::none) open_turns<C::consumer_warpgroups>(c.warpgroup);
  if constexpr (C::overlap) {
    consume_overlapped(c);
  } else {
    consume_serially(c);
  }
  if (C::turns != Turns::none) close_turns<C::consumer_warpgroups>(c.warpgroup);
  if (C::staged_output && ptx::elect_one()) ptx::bulk_wait_group<0>();  // shared memory must outlive the copies
}

// ---- kernel --------------------------------------------------------------------------------------------------------

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ptx::TensorMap& out_map, const ForwardParams& params) {
  const Addresses<C> shared = {shared_base()};
  if (thread_index() == 0) {
    for (const ptx::TensorMap* map : {&q_map, &k_map, &v_map, &out_map}) ptx::prefetch_tensormap(map);
    init_all_barriers(shared);
  }
  ptx::cta_sync();

  // NOTE: through a shuffle, so that ptxas knows the value to be the same in the whole warp and keeps descriptors in
  // uniform registers.
  const int warpgroup = ptx::shuffle_index(thread_index() / WARPGROUP_THREADS, 0);
  if (warpgroup == 0) {
    ptx::setmaxnreg_dec<C::producer_registers>();
    if (thread_index() < WARP_THREADS && ptx::elect_one()) {
      produce(Producer<C>{q_map, k_map, v_map, params, shared, {}, {}, {}});
    }
  } else {
    ptx::setmaxnreg_inc<C::consumer_registers>();
    Consumer<C> consumer{out_map, params, shared, warpgroup - 1, thread_index() % WARPGROUP_THREADS};
    consume(consumer);
  }
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
  VARIANTS_TUNING(V, softmax_turns, 64)                  \
  VARIANTS_TUNING(V, softmax_turns, 128)                 \
  VARIANTS_TUNING(V, no_turns, 64)                       \
  VARIANTS_TUNING(V, no_turns, 128)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
