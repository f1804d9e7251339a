// Shared memory, barriers and producer of a kernel whose CTAs work on one output tile after another (level 4, FP8).
// Config members read here: dtype, causal, head_dim, tile_m, tile_n, stages, q_stages, staged_output,
// consumer_warpgroups.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/pipeline.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/attention/scheduler.cuh>

namespace attnbench {

// Bytes of a warpgroup's queries, and of a stage of keys and of values. Values of an 8-bit type come as V^T.
template <class C>
struct TileSizes {
  static constexpr uint32_t q = tile_bytes(C::dtype, C::head_dim, WARPGROUP_ROWS);
  static constexpr uint32_t k = tile_bytes(C::dtype, C::head_dim, C::tile_n);
  static constexpr uint32_t v = C::dtype == Dtype::e4m3 ? tile_bytes(C::dtype, C::tile_n, C::head_dim) : k;
};

template <class C>
struct SharedStorage {
  static constexpr int warpgroups = C::consumer_warpgroups;
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t q[warpgroups][C::q_stages][TileSizes<C>::q];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t k[C::stages][TileSizes<C>::k];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t v[C::stages][TileSizes<C>::v];
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t out[C::staged_output ? warpgroups : 0][tile_bytes(C::head_dim, WARPGROUP_ROWS)];
  alignas(TILE_BYTES) uint8_t tile[warpgroups][C::q_stages][TILE_BYTES];
  uint64_t q_full[warpgroups][C::q_stages], q_empty[warpgroups][C::q_stages];
  uint64_t k_full[C::stages], k_empty[C::stages], v_full[C::stages], v_empty[C::stages];
  uint64_t complete;  // completes once, at the start: a wait for it always passes
};

// Shared-memory addresses of the members of SharedStorage.
template <class C>
struct Addresses {
  using Shared = SharedStorage<C>;
  static constexpr uint32_t out_bytes = tile_bytes(C::head_dim, WARPGROUP_ROWS);
  uint32_t base;

  ATTNBENCH_DEVICE_MEMBER uint32_t q(int warpgroup, int stage) const {
    return base + uint32_t(offsetof(Shared, q)) + (warpgroup * C::q_stages + stage) * TileSizes<C>::q;
  }
  ATTNBENCH_DEVICE_MEMBER uint32_t k(int stage) const {
    return base + uint32_t(offsetof(Shared, k)) + stage * TileSizes<C>::k;
  }
  ATTNBENCH_DEVICE_MEMBER uint32_t v(int stage) const {
    return base + uint32_t(offsetof(Shared, v)) + stage * TileSizes<C>::v;
  }
  ATTNBENCH_DEVICE_MEMBER uint32_t out(int warpgroup) const {
    return base + uint32_t(offsetof(Shared, out)) + warpgroup * out_bytes;
  }
  ATTNBENCH_DEVICE_MEMBER uint32_t tile(int warpgroup, int stage) const {
    return base + uint32_t(offsetof(Shared, tile)) + (warpgroup * C::q_stages + stage) * TILE_BYTES;
  }
  // First barrier of each ring.
  ATTNBENCH_DEVICE_MEMBER uint32_t q_full(int warpgroup) const {
    return base + uint32_t(offsetof(Shared, q_full)) + warpgroup * C::q_stages * MBARRIER_BYTES;
  }
  ATTNBENCH_DEVICE_MEMBER uint32_t q_empty(int warpgroup) const {
    return base + uint32_t(offsetof(Shared, q_empty)) + warpgroup * C::q_stages * MBARRIER_BYTES;
  }
  ATTNBENCH_DEVICE_MEMBER uint32_t k_full() const { return base + uint32_t(offsetof(Shared, k_full)); }
  ATTNBENCH_DEVICE_MEMBER uint32_t k_empty() const { return base + uint32_t(offsetof(Shared, k_empty)); }
  ATTNBENCH_DEVICE_MEMBER uint32_t v_full() const { return base + uint32_t(offsetof(Shared, v_full)); }
  ATTNBENCH_DEVICE_MEMBER uint32_t v_empty() const { return base + uint32_t(offsetof(Shared, v_empty)); }
  ATTNBENCH_DEVICE_MEMBER uint32_t complete() const { return base + uint32_t(offsetof(Shared, complete)); }
};

// releases: arrivals that free a stage of keys or values.
template <class C>
ATTNBENCH_DEVICE void init_all_barriers(const Addresses<C>& shared, uint32_t releases = C::consumer_warpgroups) {
  constexpr int warps = WARPGROUP_THREADS / WARP_THREADS;
  for (int warpgroup = 0; warpgroup < C::consumer_warpgroups; ++warpgroup) {
    init_barriers(shared.q_full(warpgroup), C::q_stages, 1, "q_full");
    init_barriers(shared.q_empty(warpgroup), C::q_stages, warps, "q_empty");
  }
  init_barriers(shared.k_full(), C::stages, 1, "k_full");
  init_barriers(shared.v_full(), C::stages, 1, "v_full");
  init_barriers(shared.k_empty(), C::stages, releases, "k_empty");
  init_barriers(shared.v_empty(), C::stages, releases, "v_empty");
  init_barriers(shared.complete(), 1, 1, "complete");
  ptx::mbarrier_arrive(shared.complete());
  ptx::fence_mbarrier_init();
}

// The producer thread and its positions in the rings. Copies are started in the order in which consumers need them
// (' marks the next tile): Q K0 | K1 V0 | K2 V1 | ... | V(last) K0' Q' | K1' V0' ...
template <class C>
struct Producer {
  const ptx::TensorMap &q_map, &k_map, &v_map;
  const ForwardParams& params;
  Addresses<C> shared;
  RingPosition<C::q_stages> q_at;
  RingPosition<C::stages> k_at, v_at;

  ATTNBENCH_DEVICE_MEMBER void load_keys(const Tile& tile, int j) {
    wait_empty(shared.k_empty(), k_at);
    load_panels<C::dtype, C::head_dim, C::tile_n>(shared.k(k_at.stage), &k_map,
                                                  shared.k_full() + k_at.stage * MBARRIER_BYTES, 0, j * C::tile_n,
                                                  tile.head / params.heads_per_kv_head, tile.batch, ptx::EVICT_LAST);
    k_at.advance();
  }

  ATTNBENCH_DEVICE_MEMBER void load_values(const Tile& tile, int j) {
    wait_empty(shared.v_empty(), v_at);
    const uint32_t full = shared.v_full() + v_at.stage * MBARRIER_BYTES;
    const int kv_head = tile.head / params.heads_per_kv_head;
    if constexpr (C::dtype == Dtype::e4m3) {
      load_panels<C::dtype, C::tile_n, C::head_dim>(shared.v(v_at.stage), &v_map, full, j * C::tile_n, 0, kv_head,
                                                    tile.batch, ptx::EVICT_LAST);
    } else {
      load_tile<C::head_dim, C::tile_n>(shared.v(v_at.stage), &v_map, full, j * C::tile_n, kv_head, tile.batch,
                                        ptx::EVICT_LAST);
    }
    v_at.advance();
  }

  // Tells each warpgroup about the tile and loads its queries; NO_TILE comes without queries.
  ATTNBENCH_DEVICE_MEMBER void announce(const Tile& tile) {
    ATTNBENCH_UNROLL
    for (int warpgroup = 0; warpgroup < C::consumer_warpgroups; ++warpgroup) {
      wait_empty(shared.q_empty(warpgroup), q_at);
      publish_tile(shared.tile(warpgroup, q_at.stage), tile);
      const uint32_t full = shared.q_full(warpgroup) + q_at.stage * MBARRIER_BYTES;
      if (tile.first_row == NO_TILE) {
        ptx::mbarrier_arrive(full);
      } else {
        load_panels<C::dtype, C::head_dim, WARPGROUP_ROWS>(shared.q(warpgroup, q_at.stage), &q_map, full, 0,
                                                           tile.first_row + warpgroup * WARPGROUP_ROWS, tile.head,
                                                           tile.batch, ptx::EVICT_FIRST);
      }
    }
    q_at.advance();
  }

  // Which tiles the CTA works on, by number.
  ATTNBENCH_DEVICE_MEMBER int tiles() const { return tile_count<C::tile_m>(params); }
  ATTNBENCH_DEVICE_MEMBER int first_number() const { return block_index(); }
  ATTNBENCH_DEVICE_MEMBER int next_number(int number, Where where = ATTNBENCH_WHERE) const {
    return next_tile_number(params, number, where);
  }
  ATTNBENCH_DEVICE_MEMBER Tile tile(int number) const {
    return tile_at<C::causal, C::tile_m, C::tile_n>(params, number);
  }
};

// P: Producer, or one with the same members.
template <class P>
ATTNBENCH_DEVICE void produce(P producer) {
  const int tiles = producer.tiles();
  int number = producer.first_number();
  Tile tile = producer.tile(number);
  producer.announce(tile);
  producer.load_keys(tile, 0);
  while (tile.first_row != NO_TILE) {
    number = producer.next_number(number);  // early: its latency passes under the loads
    ATTNBENCH_NO_UNROLL
    for (int j = 1; j < tile.key_tiles; ++j) {
      producer.load_keys(tile, j);
      producer.load_values(tile, j - 1);
    }
    producer.load_values(tile, tile.key_tiles - 1);
    if (number < tiles) {
      tile = producer.tile(number);
      producer.load_keys(tile, 0);
    } else {
      tile.first_row = NO_TILE;
    }
    producer.announce(tile);
  }
}

}  // namespace attnbench
