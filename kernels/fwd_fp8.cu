// Forward attention in FP8: e4m3 queries, keys and values with fp32 descales, what the backend `hopper_fp8` runs.
//
// The schedule is level 4's (fwd_overlap.cu): persistent CTAs, products and softmax of one warpgroup overlapped within
// a tile and across tiles. What e4m3 changes:
// - 8-bit wgmma takes both operands with k contiguous, so values come as V^T. It is stored with the keys of each 16 in
//   the order in which a thread holds its weights, so that packing a score tile gives the A operand of the next product
//   without an exchange (layout.cuh, permuted_key; FlashAttention-3, Shah et al. 2024, section 3.3, permutes in the
//   kernel instead).
// - Descales cost next to nothing in the main loop. q's and k's join the softmax scale, per block of keys where there
//   are blocks (FlashAttention-3's block quantization). The output is kept in units of v's current descale: when the
//   block changes, the ratio of both joins the factor that rescales the output; the last unit joins the final division.
// - Weights are multiplied by 2^offset (P scale) so that small ones do not flush to zero; no maximum stays behind, so
//   that large ones neither saturate nor lose their exact representation.
// - Hopper sums e4m3 products in about 14 bits (DeepSeek-V3 report, section 3.5.2), which long sequences notice. With
//   two levels each key tile's product starts from zero and joins the output in fp32, by the FFMA that takes the place
//   of the rescaling multiplication.
//
//   schedule       head_dim  causal  descales   tile       stages  query buffers  output  shared memory  registers
//   fp8                  64     any  per head   192 x 160    3          2         staged     180 KiB      32 / 160
//                        64     any  blocks     192 x 128    3          2         staged     144 KiB      32 / 160
//                       128      no  per head   128 x 224    2          2         staged     184 KiB      24 / 240
//                       128     yes  per head   128 x 192    2          2         staged     176 KiB      24 / 240
//                       128     any  blocks     128 x 128    2          2         staged     128 KiB      24 / 240
//                       256     any  any        128 x 128    2          2         registers  192 KiB      24 / 240
//   fp8_two_level        64      no  per head   128 x 224    3          2         staged     180 KiB      24 / 240
//                        64     yes  per head   128 x 192    3          2         staged     168 KiB      24 / 240
//                        64     any  blocks     128 x 128    3          2         staged     120 KiB      24 / 240
//                       128     any  any        128 x 128    2          2         staged     128 KiB      24 / 240
//                       256     any  any        128 x 128    2          2         registers  192 KiB      24 / 240
//   fp8_m192            128      no  per head   192 x  96    2          2         staged     152 KiB      32 / 160
//   fp8_no_polynomial  as fp8 at 64 and 128 with descales per head, every exponential by the multi-function unit
//
// Rows of head_dim 64 fill half of a panel; TMA writes zeros to the other half, which no product reads. At head_dim 256
// a second output does not fit the registers beside the scores: two levels then take the product in two halves, into
// the registers of the scores, with products and softmax of a warpgroup one after the other. At head_dim 128 it fits
// beside 128 keys; 160 would spill 18 to 24 registers.
#include <attnbench/attention/consumer.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

constexpr float E4M3_MAX_LOG2 = 8.8073549f;  // log2(448)
constexpr float MAX_OFFSET_LOG2 = 8.0f;       // of the largest P scale
// How far a maximum may stay behind (softmax.cuh): so little that a rescale is left out only where no maximum grew.
// NOTE: not as far as saturation would allow. The weight of a row's maximum is 2^offset, which e4m3 holds exactly. With
// a maximum that stayed behind it is rounded as any other, by up to 1 part in 16: rows that one key dominates show it.
constexpr float STAY_BEHIND_LOG2 = 0x1p-10f;
static_assert(1 << int(MAX_OFFSET_LOG2) == ATTNBENCH_MAX_P_SCALE, "the offset is log2 of P scale");

enum class Accumulation { one_level, two_level };
enum class Scales { per_head, blocks };  // blocks: per head too
enum class Tuning { none, no_polynomial, m192 };  // what else a GPU has to decide on

template <int HeadDim, bool Causal, Accumulation A, Scales S, Tuning T = Tuning::none>
struct Config {
  static constexpr bool two_level = A == Accumulation::two_level;
  static constexpr const char* schedule = T == Tuning::no_polynomial ? "fp8_no_polynomial"
                                          : T == Tuning::m192        ? "fp8_m192"
                                          : two_level                ? "fp8_two_level"
                                                                     : "fp8";
  static constexpr Dtype dtype = Dtype::e4m3;
  static constexpr int head_dim = HeadDim;
  static constexpr bool causal = Causal;
  static constexpr bool blocks = S == Scales::blocks;
  // Columns of one product of weights and values; two levels at head_dim 256 take two.
  static constexpr int value_columns = two_level && HeadDim == 256 ? 128 : HeadDim;
  static constexpr bool overlap = value_columns == HeadDim;
  // Two levels: a product joins the output under the next scores' product. Else behind its own, for two registers less,
  // which ptxas without the merge would spill in the causal kernel at head_dim 128.
  static constexpr bool joins_under_scores = two_level && (PTXAS_MERGES_E4M3 || HeadDim != 128 || !Causal);
  static constexpr bool turns = HeadDim != 64;
  // Clocks of the multi-function unit over those of the tensor cores, without polynomials: 2.05 at head_dim 64, 1.02 at
  // 128. Of six exponentials one by a polynomial makes that 1.70 and 0.86, with issue slots at 1.70 and 0.82; blocks
  // have fewer slots left. At 256, and at 128 with two levels, where issue binds, they would cost more than they bring.
  static constexpr bool shares = T != Tuning::no_polynomial && (HeadDim == 64 || (HeadDim == 128 && !two_level));
  static constexpr int share = T == Tuning::m192 ? 8 : !blocks ? 6 : two_level ? 10 : 8;
  using Exponentials = std::conditional_t<shares, Polynomials<share, 3>, NoPolynomials>;
  static constexpr int consumer_warpgroups = (HeadDim == 64 && !two_level) || T == Tuning::m192 ? 3 : 2;
  static constexpr int tile_m = consumer_warpgroups * WARPGROUP_ROWS;
  // A tile of keys has one descale: with blocks it is the smallest block. Else as many as registers hold.
  static constexpr int tile_n = blocks                        ? ATTNBENCH_MIN_DESCALE_BLOCK
                                : T == Tuning::m192        ? 96
                                : consumer_warpgroups == 3 ? 160
                                : Causal                   ? 192
                                                           : 224;
  static constexpr int q_rows = WARPGROUP_ROWS;  // of one copy: each warpgroup's queries come on their own
  static constexpr int out_rows = WARP_ROWS;     // of one copy: each warp stores on its own
  static constexpr int stages = HeadDim == 64 ? 3 : 2;
  static constexpr int q_stages = 2;
  // At head_dim 256 the addresses of a staged output do not fit the registers beside output and scores.
  static constexpr bool staged_output = HeadDim != 256;
  static constexpr int threads = (1 + consumer_warpgroups) * WARPGROUP_THREADS;
  static constexpr int producer_registers = consumer_warpgroups == 3 ? 32 : 24;
  static constexpr int consumer_registers = consumer_warpgroups == 3 ? 160 : 240;
  // With two levels the output is multiplied in any case, and letting a maximum stay behind saves nothing.
  static constexpr float rescale_threshold_log2 = two_level ? RESCALE_ALWAYS : STAY_BEHIND_LOG2;
  static_assert(MAX_OFFSET_LOG2 + rescale_threshold_log2 <= E4M3_MAX_LOG2, "the largest weight would saturate");
  static_assert(WARPGROUP_ROWS <= ATTNBENCH_MIN_DESCALE_BLOCK, "a warpgroup's queries have one descale");
  static constexpr int32_t accumulator = two_level ? ATTNBENCH_ACCUMULATOR_TWO_LEVEL : ATTNBENCH_ACCUMULATOR_HOPPER;
  static constexpr uint32_t flags = ATTNBENCH_FLAG_WARP_SPECIALIZED | ATTNBENCH_FLAG_PERSISTENT |
                                    (overlap ? uint32_t(ATTNBENCH_FLAG_OVERLAP) : 0u) |
                                    (turns ? uint32_t(ATTNBENCH_FLAG_PINGPONG) : 0u) |
                                    (Exponentials::every > 0 ? uint32_t(ATTNBENCH_FLAG_POLYNOMIAL) : 0u) |
                                    (blocks ? uint32_t(ATTNBENCH_FLAG_BLOCK_DESCALES) : 0u);
};

// ---- descales ------------------------------------------------------------------------------------------------------

// A scale of 0 times a hidden score of -inf would be NaN.
constexpr float SMALLEST_SCALE = std::numeric_limits<float>::min();

ATTNBENCH_DEVICE const float* head_descales(const Descales& descales, int batch, int head) {
  return descales.data + batch * descales.batch_stride + head * descales.head_stride;
}

ATTNBENCH_DEVICE float block_descale(const float* of_head, const Descales& descales, int block) {
  return ptx::load_global_f32(of_head + int64_t(block) * descales.block_stride);
}

// ---- consumers -----------------------------------------------------------------------------------------------------

template <class C>
struct Fp8Consumer : Consumer<C> {
  float scale_log2;          // softmax scale of the tile's queries (and keys, where one descale is for all): > 0
  const float* k_descales;   // of the tile's head
  const float* v_descales;
  float v_descale;                // unit of the output
  // Two levels: for the output when the product that is due joins it, and when the one after it does.
  float factor[ROWS_PER_THREAD], next_factor[ROWS_PER_THREAD];
  float tile_output[C::two_level && C::overlap ? C::head_dim / 2 : 1];  // two levels: that product
};

// What goes with one tile of keys: softmax scale of its scores, and the descale of its values.
struct KeyScales {
  float score_log2;
  float v_descale;
};

// Reads the descales of a tile that was just received.
template <class C>
ATTNBENCH_DEVICE void load_descales(Fp8Consumer<C>& c) {
  const ForwardParams& p = c.params;
  const int kv_head = c.tile.head / p.heads_per_kv_head;
  // Of the last tile's rows, a warpgroup may have none.
  const int row = c.first_row() < p.seqlen_q ? c.first_row() : p.seqlen_q - 1;
  const float* of_head = head_descales(p.q_descales, c.tile.batch, c.tile.head);
  const float scale = p.scale_log2 * block_descale(of_head, p.q_descales, row >> p.descale_block_log2);
  c.k_descales = head_descales(p.k_descales, c.tile.batch, kv_head);
  c.v_descales = head_descales(p.v_descales, c.tile.batch, kv_head);
  c.scale_log2 = C::blocks ? scale : ptx::maximum(scale * block_descale(c.k_descales, p.k_descales, 0), SMALLEST_SCALE);
  if (!C::blocks) c.v_descale = block_descale(c.v_descales, p.v_descales, 0);
}

// NOTE: ptxas moves a value that it knows to be the same in the whole warp to a uniform register as soon as it can, and
// would wait for these loads before the products. So their address depends on a row sum, which is never negative.
template <class C>
ATTNBENCH_DEVICE KeyScales key_scales(const Fp8Consumer<C>& c, int j) {
  if (!C::blocks) return {c.scale_log2, c.v_descale};
  const int block = (j * C::tile_n >> c.params.descale_block_log2) + int(c.rows.sum[0] < 0.0f);
  return {ptx::maximum(c.scale_log2 * block_descale(c.k_descales, c.params.k_descales, block), SMALLEST_SCALE),
          block_descale(c.v_descales, c.params.v_descales, block)};
}

// The output is to be in units of the tile's v descale: `factor` gets the ratio of the former unit to it.
template <class C>
ATTNBENCH_DEVICE bool change_unit(Fp8Consumer<C>& c, const KeyScales& scales, float (&factor)[ROWS_PER_THREAD]) {
  if (!C::blocks) return false;
  const float ratio = c.v_descale * ptx::reciprocal(ptx::maximum(scales.v_descale, SMALLEST_SCALE));
  c.v_descale = scales.v_descale;
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) factor[r] *= ratio;
  return ratio != 1.0f;
}

// output = output * factor + product, for the columns of the output that the product has.
template <int First, int Registers, int ProductRegisters>
ATTNBENCH_DEVICE void join_output(float (&output)[Registers], const float (&factor)[ROWS_PER_THREAD],
                                  const float (&product)[ProductRegisters]) {
  ATTNBENCH_UNROLL
  for (int i = 0; i < ProductRegisters; ++i) {
    output[First + i] = ptx::multiply_add(output[First + i], factor[i >> 1 & 1], product[i]);
  }
}

// Two levels: adds the last tile's product, which is complete, to the output: between the next scores' product, which
// hides it, and the next one of weights and values, which takes its registers.
template <class C>
ATTNBENCH_DEVICE void join_pending(Fp8Consumer<C>& c) {
  join_output<0>(c.output, c.factor, c.tile_output);
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) c.factor[r] = c.next_factor[r];
}

template <class C>
ATTNBENCH_DEVICE void issue_output(Fp8Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  if constexpr (C::joins_under_scores) join_pending(c);
  wait_full(c.shared.v_full(), c.v_at, where);
  ptx::wgmma_fence(where);
  const uint32_t v = c.shared.v(c.v_at.stage);
  if constexpr (C::two_level) {
    issue_weights_value_transposed<C::dtype, C::head_dim, C::head_dim>(c.tile_output, c.weights, v, true, where);
  } else {
    issue_weights_value_transposed<C::dtype, C::head_dim, C::head_dim>(c.output, c.weights, v, false, where);
  }
  ptx::wgmma_commit_group(where);
}

// NOTE: two levels at head_dim 128 leave no registers for c.visible: with it ptxas spills outside the main loop.
template <class C>
ATTNBENCH_DEVICE void mask_keys(Fp8Consumer<C>& c, int j) {
  if constexpr (C::two_level && C::head_dim == 128) {
    const VisibleKeys visible = visible_to_thread<C::causal>(c.thread, c.row(), c.params.seqlen_q, c.params.seqlen_k);
    mask_scores<C::causal>(c.scores, visible, j * C::tile_n);
  } else {
    mask_tile(c, j);
  }
}

// Softmax of a tile's first scores: starts maxima and sums anew.
template <class C>
ATTNBENCH_DEVICE void start_softmax(Fp8Consumer<C>& c) {
  const KeyScales scales = key_scales(c, 0);
  c.v_descale = scales.v_descale;
  if (c.unmasked == 0) mask_keys(c, 0);
  start_maximum(c.rows, c.scores, scales.score_log2, c.params.offset_log2);
  exponentiate<RowKeys::maybe_none>(c.rows, c.scores, scales.score_log2);
  pack_weights_8bit(c.weights, c.scores);
  clear(c.output);
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) c.factor[r] = c.next_factor[r] = 1.0f;
  if constexpr (C::two_level) clear(c.tile_output);  // nothing is pending yet
}

// Key tile j >= 1 of the current tile: scores of j, output of j - 1, softmax of j.
template <bool Masked, class C>
ATTNBENCH_DEVICE void step(Fp8Consumer<C>& c, int j) {
  const KeyScales scales = key_scales(c, j);  // early: its latency passes under turn and products
  begin_turn(c);
  issue_scores(c, j);
  issue_output(c);
  end_turn(c);

  ptx::wgmma_wait_group<1>();
  release_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_keys(c, j);
  float factor[ROWS_PER_THREAD];
  const bool grew = update_maximum<PolynomialsOf<Masked, C>>(
      c.rows, c.scores, scales.score_log2, C::rescale_threshold_log2, factor, c.params.offset_log2);
  exponentiate_under_products<Masked>(c, scales.score_log2);
  ptx::wgmma_wait_group<0>();
  release_values(c);
  // NOTE: only now: until its product is complete, the registers of the former weights must not change (C7513).
  pack_weights_8bit(c.weights, c.scores);
  const bool unit_changed = change_unit(c, scales, factor);
  if constexpr (C::two_level) {
    ATTNBENCH_UNROLL
    for (int r = 0; r < ROWS_PER_THREAD; ++r) c.next_factor[r] = factor[r];
    if constexpr (!C::joins_under_scores) join_pending(c);
  } else {
    if (ptx::any_sync(grew || unit_changed)) scale_rows(c.output, factor);
  }
}

// Completes, divides, rounds and stores the output of `tile`, in units of `v_descale`.
template <class C>
ATTNBENCH_DEVICE void finish_output(Fp8Consumer<C>& c, const Tile& tile, float v_descale,
                                    Where where = ATTNBENCH_WHERE) {
  if constexpr (C::two_level && C::overlap) join_output<0>(c.output, c.factor, c.tile_output);
  float lse[ROWS_PER_THREAD];
  normalize(c.rows, c.output, lse, v_descale);
  if (c.params.out_fp16) {
    store_tile<Dtype::fp16>(c, tile, lse, where);
  } else {
    store_tile<Dtype::bf16>(c, tile, lse, where);
  }
}

// The end of a tile: its last PV, together with the first QK^T of the next tile, under which the output is stored.
// Returns false where there is no next tile.
template <class C>
ATTNBENCH_DEVICE bool finish_tile(Fp8Consumer<C>& c) {
  const Tile finished = c.tile;
  const float v_descale = c.v_descale;
  release_queries_at_end(c);
  begin_turn(c);
  issue_output(c);
  const bool more = receive_tile(c);
  if (more) {
    load_descales(c);
    issue_scores(c, 0);
    end_turn(c);
    ptx::wgmma_wait_group<1>();
    release_values(c);
    finish_output(c, finished, v_descale);
    hold_above_wait(c, false);
    ptx::wgmma_wait_group<0>();
    release_keys(c);
    release_queries_after(c, 0);
    start_softmax(c);
  } else {
    end_turn(c);
    ptx::wgmma_wait_group<0>();
    release_values(c);
    finish_output(c, finished, v_descale);
  }
  return more;
}

template <class C>
ATTNBENCH_DEVICE void consume_overlapped(Fp8Consumer<C>& c) {
  receive_tile(c);  // every CTA has at least one
  load_descales(c);
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

// Part `Part` of the product of weights and values, by way of the registers of the scores.
template <int Part, class C>
ATTNBENCH_DEVICE void add_output_part(Fp8Consumer<C>& c, const float (&factor)[ROWS_PER_THREAD],
                                      Where where = ATTNBENCH_WHERE) {
  constexpr int registers = C::value_columns / 2;
  const uint32_t v = c.shared.v(c.v_at.stage) + panel_bytes(Part * C::value_columns);
  ptx::wgmma_fence(where);
  issue_weights_value_transposed<C::dtype, C::value_columns, C::head_dim>(c.scores, c.weights, v, true, where);
  ptx::wgmma_commit_group(where);
  ptx::wgmma_wait_group<0>(where);
  join_output<Part * registers>(c.output, factor, c.scores);
}

// Key tile j where the output takes two products: everything one after the other. The other warpgroup fills the gaps.
template <bool Masked, class C>
ATTNBENCH_DEVICE void serial_step(Fp8Consumer<C>& c, int j) {
  static_assert(C::overlap || C::tile_n == C::value_columns, "the registers of the scores take the product");
  const KeyScales scales = key_scales(c, j);
  begin_turn(c);
  issue_scores(c, j);
  end_turn(c);
  ptx::wgmma_wait_group<0>();
  release_keys(c);
  release_queries_after(c, j);
  if (Masked) mask_keys(c, j);
  float factor[ROWS_PER_THREAD];
  update_maximum(c.rows, c.scores, scales.score_log2, C::rescale_threshold_log2, factor, c.params.offset_log2);
  exponentiate<Masked ? RowKeys::maybe_none : RowKeys::some>(c.rows, c.scores, scales.score_log2);
  pack_weights_8bit(c.weights, c.scores);
  change_unit(c, scales, factor);
  wait_full(c.shared.v_full(), c.v_at);
  add_output_part<0>(c, factor);
  add_output_part<1>(c, factor);
  release_values(c);
}

template <class C>
ATTNBENCH_DEVICE void consume_serially(Fp8Consumer<C>& c) {
  receive_tile(c);  // every CTA has at least one
  do {
    load_descales(c);
    c.rows = EMPTY_ROWS;
    c.v_descale = 0.0f;  // no unit yet: nothing has been added
    clear(c.output);
    int j = 0;
    ATTNBENCH_NO_UNROLL
    for (; j < c.unmasked && j < c.tile.key_tiles; ++j) serial_step<false>(c, j);
    ATTNBENCH_NO_UNROLL
    for (; j < c.tile.key_tiles; ++j) serial_step<true>(c, j);
    release_queries_at_end(c);
    finish_output(c, c.tile, c.v_descale);
  } while (receive_tile(c));
}

template <class C>
ATTNBENCH_DEVICE void consume(Fp8Consumer<C>& c) {
  c.rows = EMPTY_ROWS;
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
    Fp8Consumer<C> consumer{{out_map, params, shared, warpgroup, thread_index() % WARPGROUP_THREADS}};
    consume(consumer);
  });
}

}  // namespace
}  // namespace attnbench

#define FP8(head_dim, causal, accumulation, scales) \
  attnbench::Config<head_dim, causal, attnbench::Accumulation::accumulation, attnbench::Scales::scales>
#define FP8_TUNING(head_dim, causal, tuning)                                                            \
  attnbench::Config<head_dim, causal, attnbench::Accumulation::one_level, attnbench::Scales::per_head, \
                    attnbench::Tuning::tuning>
#define VARIANTS_OF(V, name, head_dim, accumulation, scales)              \
  V(fwd_##name##_d##head_dim, FP8(head_dim, false, accumulation, scales)) \
  V(fwd_##name##_d##head_dim##_causal, FP8(head_dim, true, accumulation, scales))
#define VARIANTS_TUNING(V, tuning, head_dim)                                    \
  V(fwd_fp8_##tuning##_d##head_dim, FP8_TUNING(head_dim, false, tuning))        \
  V(fwd_fp8_##tuning##_d##head_dim##_causal, FP8_TUNING(head_dim, true, tuning))
#define VARIANTS(V)                                            \
  VARIANTS_OF(V, fp8, 64, one_level, per_head)                 \
  VARIANTS_OF(V, fp8, 128, one_level, per_head)                \
  VARIANTS_OF(V, fp8_blocks, 64, one_level, blocks)            \
  VARIANTS_OF(V, fp8_blocks, 128, one_level, blocks)           \
  VARIANTS_OF(V, fp8_blocks, 256, one_level, blocks)           \
  VARIANTS_OF(V, fp8_two_level, 64, two_level, per_head)       \
  VARIANTS_OF(V, fp8_two_level_blocks, 64, two_level, blocks)  \
  VARIANTS_OF(V, fp8_two_level_blocks, 128, two_level, blocks) \
  VARIANTS_OF(V, fp8_two_level_blocks, 256, two_level, blocks) \
  VARIANTS_TUNING(V, no_polynomial, 64)                        \
  VARIANTS_TUNING(V, no_polynomial, 128)                       \
  V(fwd_fp8_m192_d128, FP8_TUNING(128, false, m192))

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
