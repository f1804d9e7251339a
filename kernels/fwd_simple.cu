// Forward attention, level 1: to read first.
//
// One warpgroup (128 threads) owns 64 query rows. It loads a tile of keys and values by TMA, computes the scores with
// wgmma, updates the online softmax in registers, and adds the weighted values with wgmma, whose A operand is the
// weights straight from registers. Everything waits for everything: no overlap at all. The levels above keep this
// arithmetic and change only the order of things.
//
// Algorithm: FlashAttention (Dao et al. 2022, Algorithm 1) with the loop order of FlashAttention-2 (Dao 2023,
// Algorithm 1): query tile outside, key tiles inside, the output divided by the row sum once at the end.
//
// What it adds: nothing; it is where the levels start.
//
//   head_dim   tile (queries x keys)   shared memory   accumulator registers (scores + weights + output)
//         64        64 x 128                40 KiB       64 + 32 +  32
//        128        64 x 128                80 KiB       64 + 32 +  64
//        256        64 x  64                96 KiB       32 + 16 + 128
#include <attnbench/forward.h>
#include <attnbench/mask.cuh>
#include <attnbench/output.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/wgmma.cuh>
#include <attnbench/softmax.cuh>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim, bool Causal>
struct Config {
  static constexpr Dtype dtype = Type;
  static constexpr int head_dim = HeadDim;
  static constexpr bool causal = Causal;
  static constexpr int tile_m = WARPGROUP_ROWS;
  static constexpr int tile_n = HeadDim == 256 ? 64 : 128;
  static constexpr int threads = WARPGROUP_THREADS;
  static constexpr int panels = HeadDim / panel_columns(Type);
};

template <class C>
struct SharedStorage {
  static constexpr int q_bytes = C::panels * panel_bytes(C::tile_m);
  static constexpr int kv_bytes = C::panels * panel_bytes(C::tile_n);
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t q[q_bytes];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t k[kv_bytes];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t v[kv_bytes];
  uint64_t q_full, k_full, v_full;
};

// Where this CTA works: one tile of query rows of one head.
struct Tile {
  int first_row, head, kv_head, batch, key_tiles;
};

template <class C>
ATTNBENCH_DEVICE Tile this_tile(const ForwardParams& params) {
  const int row_tiles = ceil_divide(params.seqlen_q, C::tile_m);
  const int head_and_batch = block_index() / row_tiles;
  Tile tile;
  tile.first_row = block_index() % row_tiles * C::tile_m;
  tile.head = head_and_batch % params.num_heads;
  tile.kv_head = tile.head / params.heads_per_kv_head;
  tile.batch = head_and_batch / params.num_heads;
  tile.key_tiles = key_tiles<C::causal>(tile.first_row, C::tile_m, C::tile_n, params.seqlen_q, params.seqlen_k);
  return tile;
}

// Announces and starts the copy of `rows` rows of one (head, batch), panel by panel. One thread calls it.
template <class C>
ATTNBENCH_DEVICE void load_rows(uint32_t destination, const ptx::TensorMap* map, uint32_t barrier, int rows, int row,
                                int head, int batch, Where where = ATTNBENCH_WHERE) {
  ptx::mbarrier_arrive_expect_tx(barrier, C::panels * panel_bytes(rows), where);
  ATTNBENCH_UNROLL
  for (int panel = 0; panel < C::panels; ++panel) {
    ptx::tma_load_4d(destination + panel * panel_bytes(rows), map, barrier, panel * panel_columns(C::dtype), row, head,
                     batch, ptx::EVICT_NORMAL, where);
  }
}

// scores = Q K^T of one tile pair.
template <class C>
ATTNBENCH_DEVICE void query_key_product(float (&scores)[C::tile_n / 2], uint32_t q, uint32_t k) {
  const uint64_t q_descriptor = k_major_descriptor(q);
  const uint64_t k_descriptor = k_major_descriptor(k);
  ptx::wgmma_fence();
  ATTNBENCH_UNROLL
  for (int step = 0; step < C::head_dim / 16; ++step) {
    ptx::wgmma_ss<C::dtype, C::tile_n>(scores, q_descriptor + k_major_step(step, C::tile_m),
                                       k_descriptor + k_major_step(step, C::tile_n), step != 0);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
}

// output += weights V.
template <class C>
ATTNBENCH_DEVICE void weights_value_product(float (&output)[C::head_dim / 2],
                                            const uint32_t (&weights)[C::tile_n / 16][4], uint32_t v) {
  const uint64_t v_descriptor = mn_major_descriptor(v, C::tile_n);
  ptx::wgmma_fence();
  ATTNBENCH_UNROLL
  for (int step = 0; step < C::tile_n / 16; ++step) {
    ptx::wgmma_rs<C::dtype, C::head_dim, true>(output, weights[step], v_descriptor + mn_major_step(step), true);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
}

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ForwardParams& params) {
  using Shared = SharedStorage<C>;
  const uint32_t base = shared_base();
  const uint32_t q = base + offsetof(Shared, q), k = base + offsetof(Shared, k), v = base + offsetof(Shared, v);
  const uint32_t q_full = base + offsetof(Shared, q_full), k_full = base + offsetof(Shared, k_full),
                 v_full = base + offsetof(Shared, v_full);
  const int thread = thread_index();
  const Tile tile = this_tile<C>(params);
  const int row = tile.first_row + accumulator_row(thread, 0);  // the thread's rows: this one and row + 8

  if (thread == 0) {
    init_barriers(q_full, 1, 1, "q_full");
    init_barriers(k_full, 1, 1, "k_full");
    init_barriers(v_full, 1, 1, "v_full");
    ptx::fence_mbarrier_init();
  }
  ptx::cta_sync();
  if (thread == 0) load_rows<C>(q, &q_map, q_full, C::tile_m, tile.first_row, tile.head, tile.batch);

  float output[C::head_dim / 2];
  ATTNBENCH_UNROLL
  for (int i = 0; i < C::head_dim / 2; ++i) output[i] = 0.0f;
  SoftmaxRows rows = {{NEGATIVE_INFINITY, NEGATIVE_INFINITY}, {0.0f, 0.0f}};
  const int unmasked = unmasked_key_tiles<C::causal>(tile.first_row, C::tile_n, params.seqlen_q, params.seqlen_k);

  wait_barrier(q_full, 0);
  ATTNBENCH_NO_UNROLL
  for (int j = 0; j < tile.key_tiles; ++j) {
    if (thread == 0) {
      load_rows<C>(k, &k_map, k_full, C::tile_n, j * C::tile_n, tile.kv_head, tile.batch);
      load_rows<C>(v, &v_map, v_full, C::tile_n, j * C::tile_n, tile.kv_head, tile.batch);
    }
    float scores[C::tile_n / 2];
    wait_barrier(k_full, j & 1);
    query_key_product<C>(scores, q, k);
    if (j >= unmasked) {
      mask_scores<C::causal>(scores, thread, row, j * C::tile_n, params.seqlen_q, params.seqlen_k);
    }

    float factor[ROWS_PER_THREAD];
    update_maximum(rows, scores, params.scale_log2, RESCALE_ALWAYS, factor);
    exponentiate(rows, scores, params.scale_log2);
    scale_rows(output, factor);
    uint32_t weights[C::tile_n / 16][4];
    pack_weights<C::dtype>(weights, scores);

    wait_barrier(v_full, j & 1);
    weights_value_product<C>(output, weights, v);
    ptx::cta_sync();  // every warp is done with k and v before the next copies overwrite them
  }

  float lse[ROWS_PER_THREAD];
  normalize(rows, output, params.scale_log2, lse);
  store_lse(params, lse, thread, row, tile.head, tile.batch);
  store_output_direct<C::dtype>(params, output, thread, row, tile.head, tile.batch);
}

// ---- host ----------------------------------------------------------------------------------------------------------

using Kernel = void(ptx::TensorMap, ptx::TensorMap, ptx::TensorMap, ForwardParams);

template <class C>
int32_t launch_config(Kernel* kernel, const AttnbenchForwardArgs& args) {
  ForwardMaps maps;
  if (int32_t status = encode_forward_maps(args, C::tile_m, C::tile_n, C::tile_m, &maps)) return status;
  const int grid = ceil_divide(args.seqlen_q, C::tile_m) * args.num_heads * args.batch;
  return launch(kernel, grid, C::threads, int(sizeof(SharedStorage<C>)), args.stream, maps.q, maps.k, maps.v,
                forward_params(args));
}

template <class C>
constexpr AttnbenchVariant describe(const char* kernel) {
  return {"simple",  kernel, int32_t(C::dtype), C::head_dim, C::causal, C::tile_m,
          C::tile_n, 1,      C::threads,        1,           int32_t(sizeof(SharedStorage<C>)),
          0,         ATTNBENCH_ACCUMULATOR_FP32};
}

}  // namespace
}  // namespace attnbench

// The variants: V(symbol, dtype, head_dim, causal).
#define VARIANTS(V)                                \
  V(fwd_simple_fp16_d64, fp16, 64, false)          \
  V(fwd_simple_fp16_d64_causal, fp16, 64, true)    \
  V(fwd_simple_fp16_d128, fp16, 128, false)        \
  V(fwd_simple_fp16_d128_causal, fp16, 128, true)  \
  V(fwd_simple_fp16_d256, fp16, 256, false)        \
  V(fwd_simple_fp16_d256_causal, fp16, 256, true)  \
  V(fwd_simple_bf16_d64, bf16, 64, false)          \
  V(fwd_simple_bf16_d64_causal, bf16, 64, true)    \
  V(fwd_simple_bf16_d128, bf16, 128, false)        \
  V(fwd_simple_bf16_d128_causal, bf16, 128, true)  \
  V(fwd_simple_bf16_d256, bf16, 256, false)        \
  V(fwd_simple_bf16_d256_causal, bf16, 256, true)

#define CONFIG(dtype, head_dim, causal) attnbench::Config<attnbench::Dtype::dtype, head_dim, causal>

#define DEFINE_KERNEL(symbol, dtype, head_dim, causal)                                                          \
  extern "C" ATTNBENCH_KERNEL(attnbench::WARPGROUP_THREADS)                                                     \
      symbol(ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap q,                                         \
             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap k,                                         \
             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap v,                                         \
             ATTNBENCH_GRID_CONSTANT const attnbench::ForwardParams params) {                                   \
    attnbench::forward<CONFIG(dtype, head_dim, causal)>(q, k, v, params);                                       \
  }
VARIANTS(DEFINE_KERNEL)

#define TABLE_ROW(symbol, dtype, head_dim, causal) attnbench::describe<CONFIG(dtype, head_dim, causal)>(#symbol),
#define LAUNCH_CASE(symbol, dtype, head_dim, causal) \
  if (args.variant == row++) return attnbench::launch_config<CONFIG(dtype, head_dim, causal)>(symbol, args);

static const AttnbenchVariant TABLE[] = {VARIANTS(TABLE_ROW)};

static int32_t launch_variant(const AttnbenchForwardArgs& args) {
  int row = 0;
  VARIANTS(LAUNCH_CASE)
  return ATTNBENCH_UNSUPPORTED_VARIANT;
}

static uint64_t workspace_bytes(const AttnbenchForwardArgs&) { return 0; }

ATTNBENCH_EXPORTS(TABLE, launch_variant, workspace_bytes)
