// Tile shapes, shared memory, barriers, roles and products of the kernels whose CTA works on one output tile: levels 2
// and 3, and the ablation without warp specialization. Each owns its main loop.
//
//   head_dim  causal  tile (queries x keys)  stages  shared memory  registers (producer / consumer)
//         64     any       192 x 128            2        88 KiB         32 / 160
//        128      no       128 x 176            2       208 KiB         24 / 240
//        128     yes       128 x 128            2       160 KiB         24 / 240
//        256     any       128 x  80            2       224 KiB         24 / 240
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/registers.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/softmax.cuh>

namespace attnbench {

// What these kernels' configurations share. A kernel adds schedule, threads and flags.
template <Dtype Type, int HeadDim, bool Causal>
struct SingleTileConfig {
  static constexpr Dtype dtype = Type;
  static constexpr int head_dim = HeadDim;
  static constexpr bool causal = Causal;
  static constexpr int consumer_warpgroups = HeadDim == 64 ? 3 : 2;
  static constexpr int tile_m = consumer_warpgroups * WARPGROUP_ROWS;
  static constexpr int tile_n = HeadDim == 256 ? 80 : HeadDim == 128 && !Causal ? 176 : 128;
  static constexpr int q_rows = tile_m;
  static constexpr int out_rows = tile_m;  // not used: the output leaves straight from registers
  static constexpr int stages = 2;
  // For kernels with a producer. The sum over warpgroups must stay within the registers that the CTA starts with:
  // 65536 / threads per thread, rounded down to a multiple of 8.
  static constexpr int producer_registers = consumer_warpgroups == 3 ? 32 : 24;
  static constexpr int consumer_registers = consumer_warpgroups == 3 ? 160 : 240;
};

template <class C>
struct SharedStorage {
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t q[tile_bytes(C::head_dim, C::tile_m)];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t k[C::stages][tile_bytes(C::head_dim, C::tile_n)];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t v[C::stages][tile_bytes(C::head_dim, C::tile_n)];
  uint64_t q_full, k_full[C::stages], k_empty[C::stages], v_full[C::stages], v_empty[C::stages];
};

// Shared-memory addresses of the members of SharedStorage.
template <class C>
struct Addresses {
  static constexpr uint32_t kv_bytes = tile_bytes(C::head_dim, C::tile_n);
  uint32_t q, k, v, q_full, k_full, k_empty, v_full, v_empty;

  ATTNBENCH_DEVICE_MEMBER uint32_t k_stage(int stage) const { return k + stage * kv_bytes; }
  ATTNBENCH_DEVICE_MEMBER uint32_t v_stage(int stage) const { return v + stage * kv_bytes; }
};

template <class C>
ATTNBENCH_DEVICE Addresses<C> addresses(uint32_t base) {
  using Shared = SharedStorage<C>;
  return {base + uint32_t(offsetof(Shared, q)),       base + uint32_t(offsetof(Shared, k)),
          base + uint32_t(offsetof(Shared, v)),       base + uint32_t(offsetof(Shared, q_full)),
          base + uint32_t(offsetof(Shared, k_full)),  base + uint32_t(offsetof(Shared, k_empty)),
          base + uint32_t(offsetof(Shared, v_full)),  base + uint32_t(offsetof(Shared, v_empty))};
}

template <class C>
ATTNBENCH_DEVICE void init_all_barriers(const Addresses<C>& shared) {
  init_barriers(shared.q_full, 1, 1, "q_full");
  init_barriers(shared.k_full, C::stages, 1, "k_full");
  init_barriers(shared.v_full, C::stages, 1, "v_full");
  init_barriers(shared.k_empty, C::stages, C::consumer_warpgroups, "k_empty");
  init_barriers(shared.v_empty, C::stages, C::consumer_warpgroups, "v_empty");
  ptx::fence_mbarrier_init();
}

// One thread: starts all copies of the CTA's tile, waiting for a free stage before each.
template <class C>
ATTNBENCH_DEVICE void produce(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                              const ForwardParams& params, const Addresses<C>& shared, const Tile& tile) {
  const int kv_head = tile.head / params.heads_per_kv_head;
  load_tile<C::head_dim, C::tile_m>(shared.q, &q_map, shared.q_full, tile.first_row, tile.head, tile.batch,
                                    ptx::EVICT_FIRST);
  RingPosition<C::stages> at;
  ATTNBENCH_NO_UNROLL
  for (int j = 0; j < tile.key_tiles; ++j) {
    wait_empty(shared.k_empty, at);
    load_tile<C::head_dim, C::tile_n>(shared.k_stage(at.stage), &k_map, shared.k_full + at.stage * MBARRIER_BYTES,
                                      j * C::tile_n, kv_head, tile.batch, ptx::EVICT_LAST);
    wait_empty(shared.v_empty, at);
    load_tile<C::head_dim, C::tile_n>(shared.v_stage(at.stage), &v_map, shared.v_full + at.stage * MBARRIER_BYTES,
                                      j * C::tile_n, kv_head, tile.batch, ptx::EVICT_LAST);
    at.advance();
  }
}

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
                                                               hold_in_loop<C::head_dim == 256>(j), where);
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

// The roles of a CTA with a producer: its one thread; consume(shared, tile, warpgroup) in each consumer warpgroup.
template <class C, class Consume>
ATTNBENCH_DEVICE void run_roles(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                                const ForwardParams& params, Consume consume) {
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
    consume(shared, tile, warpgroup - 1);
  }
}

}  // namespace attnbench
