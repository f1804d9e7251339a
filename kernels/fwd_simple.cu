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
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/output.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/attention/variants.h>

namespace attnbench {
namespace {

template <Dtype Type, int HeadDim, bool Causal>
struct Config {
  static constexpr const char* schedule = "simple";
  static constexpr Dtype dtype = Type;
  static constexpr int head_dim = HeadDim;
  static constexpr bool causal = Causal;
  static constexpr int tile_m = WARPGROUP_ROWS;
  static constexpr int tile_n = HeadDim == 256 ? 64 : 128;
  static constexpr int q_rows = tile_m;    // rows of one copy
  static constexpr int out_rows = tile_m;  // not used: the output leaves straight from registers
  static constexpr int stages = 1;
  static constexpr int consumer_warpgroups = 1;
  static constexpr int threads = WARPGROUP_THREADS;
  static constexpr uint32_t flags = 0;
};

template <class C>
struct SharedStorage {
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t q[tile_bytes(C::head_dim, C::tile_m)];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t k[tile_bytes(C::head_dim, C::tile_n)];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t v[tile_bytes(C::head_dim, C::tile_n)];
  uint64_t q_full, k_full, v_full;
};

template <class C>
ATTNBENCH_DEVICE void forward(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ptx::TensorMap&, const ForwardParams& params) {
  using Shared = SharedStorage<C>;
  const uint32_t base = shared_base();
  const uint32_t q = base + offsetof(Shared, q), k = base + offsetof(Shared, k), v = base + offsetof(Shared, v);
  const uint32_t q_full = base + offsetof(Shared, q_full), k_full = base + offsetof(Shared, k_full),
                 v_full = base + offsetof(Shared, v_full);
  const int thread = thread_index();
  const Tile tile = tile_at<C::causal, C::tile_m, C::tile_n>(params, block_index());
  const int kv_head = tile.head / params.heads_per_kv_head;
  const int row = tile.first_row + accumulator_row(thread, 0);  // the thread's rows: this one and row + 8

  if (thread == 0) {
    init_barriers(q_full, 1, 1, "q_full");
    init_barriers(k_full, 1, 1, "k_full");
    init_barriers(v_full, 1, 1, "v_full");
    ptx::fence_mbarrier_init();
  }
  ptx::cta_sync();
  if (thread == 0) {
    load_tile<C::head_dim, C::tile_m>(q, &q_map, q_full, tile.first_row, tile.head, tile.batch, ptx::EVICT_FIRST);
  }

  float output[C::head_dim / 2];
  clear(output);
  SoftmaxRows rows = EMPTY_ROWS;
  const int unmasked = unmasked_key_tiles<C::causal>(tile.first_row, C::tile_n, params.seqlen_q, params.seqlen_k);

  wait_barrier(q_full, 0);
  ATTNBENCH_NO_UNROLL
  for (int j = 0; j < tile.key_tiles; ++j) {
    if (thread == 0) {
      const int key = j * C::tile_n;
      load_tile<C::head_dim, C::tile_n>(k, &k_map, k_full, key, kv_head, tile.batch, ptx::EVICT_LAST);
      load_tile<C::head_dim, C::tile_n>(v, &v_map, v_full, key, kv_head, tile.batch, ptx::EVICT_LAST);
    }
    float scores[C::tile_n / 2];
    wait_barrier(k_full, j & 1);
    ptx::wgmma_fence();
    issue_query_key<C::dtype, C::head_dim, C::tile_n, C::tile_m>(scores, q, k);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    if (j >= unmasked) {
      const VisibleKeys visible = visible_to_thread<C::causal>(thread, row, params.seqlen_q, params.seqlen_k);
      mask_scores<C::causal>(scores, visible, j * C::tile_n);
    }

    float factor[ROWS_PER_THREAD];
    update_maximum(rows, scores, params.scale_log2, RESCALE_ALWAYS, factor);
    exponentiate<RowKeys::maybe_none>(rows, scores, params.scale_log2);
    scale_rows(output, factor);
    uint32_t weights[C::tile_n / STEP_K][4];
    pack_weights<C::dtype>(weights, scores);

    wait_barrier(v_full, j & 1);
    ptx::wgmma_fence();
    issue_weights_value<C::dtype, C::head_dim, C::tile_n>(output, weights, v);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    ptx::cta_sync();  // every warp is done with k and v before the next copies overwrite them
  }

  float lse[ROWS_PER_THREAD];
  normalize(rows, output, lse);
  store_lse(params, lse, thread, row, tile.head, tile.batch);
  store_output_direct<C::dtype>(params, output, thread, row, tile.head, tile.batch);
}

}  // namespace
}  // namespace attnbench

#define VARIANTS(V) ATTNBENCH_VARIANTS_16_BIT(V, fwd_simple, attnbench::Config)

ATTNBENCH_FORWARD_LIBRARY(VARIANTS)
