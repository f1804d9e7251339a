// Two CTAs of a cluster that share keys and values: they work on neighbouring tiles of query rows of one head, and so
// on the same key tiles. Each loads half of the columns of every key and value tile, and TMA writes that half to both
// (multicast): L2 is read once for the two. What else a persistent kernel needs is in persistent.cuh and consumer.cuh.
//
// full[stage]: one arrival by the own producer, with the bytes of the whole tile; both CTAs' copies complete on it.
// empty[stage]: one arrival per consumer warpgroup of either CTA, since the own producer also writes to the other one.
// NOTE: the other half may land before the own producer has announced its bytes. It cannot come a phase too early: the
// other producer starts it when this CTA's consumers, too, have released the stage, and so have seen the phase before.
#pragma once

#include <attnbench/attention/consumer.cuh>
#include <attnbench/ptx/cluster.cuh>

namespace attnbench {

constexpr int PAIR_CTAS = 2;
constexpr uint16_t BOTH_CTAS = 0b11;

// Announces a tile of keys or values, and starts the copy of this CTA's half of its panels to both CTAs.
template <class C>
ATTNBENCH_DEVICE void load_half(uint32_t destination, const ptx::TensorMap* map, uint32_t barrier, int row, int head,
                                int batch, Where where = ATTNBENCH_WHERE) {
  constexpr int panels = panel_count(C::dtype, C::head_dim) / PAIR_CTAS;
  ptx::mbarrier_arrive_expect_tx(barrier, tile_bytes(C::dtype, C::head_dim, C::tile_n), where);
  ATTNBENCH_UNROLL
  for (int i = 0; i < panels; ++i) {
    const int panel = ptx::cluster_rank(where) * panels + i;
    ptx::tma_load_multicast_4d(destination + panel * panel_bytes(C::tile_n), map, barrier,
                               panel * panel_columns(C::dtype), row, head, batch, BOTH_CTAS, ptx::EVICT_LAST, where);
  }
}

// The producer thread of a CTA of a pair. Tiles are dealt out in pairs; the second of a pair may lie past the last
// query, and then costs time and nothing else.
template <class C>
struct PairProducer : Producer<C> {
  static_assert(!C::causal, "both CTAs take the same number of key tiles");

  ATTNBENCH_DEVICE_MEMBER void load_keys(const Tile& tile, int j) {
    wait_empty(this->shared.k_empty(), this->k_at);
    load_half<C>(this->shared.k(this->k_at.stage), &this->k_map,
                 this->shared.k_full() + this->k_at.stage * MBARRIER_BYTES, j * C::tile_n,
                 tile.head / this->params.heads_per_kv_head, tile.batch);
    this->k_at.advance();
  }

  ATTNBENCH_DEVICE_MEMBER void load_values(const Tile& tile, int j) {
    wait_empty(this->shared.v_empty(), this->v_at);
    load_half<C>(this->shared.v(this->v_at.stage), &this->v_map,
                 this->shared.v_full() + this->v_at.stage * MBARRIER_BYTES, j * C::tile_n,
                 tile.head / this->params.heads_per_kv_head, tile.batch);
    this->v_at.advance();
  }

  // By number of the pair.
  ATTNBENCH_DEVICE_MEMBER int tiles() const { return tile_count<PAIR_CTAS * C::tile_m>(this->params); }
  ATTNBENCH_DEVICE_MEMBER int first_number() const { return ptx::cluster_index(); }
  ATTNBENCH_DEVICE_MEMBER int next_number(int number) const { return number + ptx::cluster_count(); }
  ATTNBENCH_DEVICE_MEMBER Tile tile(int number) const {
    Tile tile = tile_at<false, PAIR_CTAS * C::tile_m, C::tile_n>(this->params, number);
    tile.first_row += ptx::cluster_rank() * C::tile_m;
    return tile;
  }
};

// A stage is free for this warpgroup: one arrival at either CTA, by the first thread of a warp each.
template <class C>
ATTNBENCH_DEVICE void release_in_both(const Consumer<C>& c, uint32_t empty, Where where = ATTNBENCH_WHERE) {
  const int rank = c.thread / WARP_THREADS;
  if (c.thread % WARP_THREADS == 0 && rank < PAIR_CTAS) {
    ptx::mbarrier_arrive_cluster(ptx::map_to_cta(empty, rank, where), where);
  }
}

// After the wait for the product that read it, as release_keys and release_values.
template <class C>
ATTNBENCH_DEVICE void release_shared_keys(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  release_in_both(c, c.shared.k_empty() + c.k_at.stage * MBARRIER_BYTES, where);
  c.k_at.advance();
}

template <class C>
ATTNBENCH_DEVICE void release_shared_values(Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  release_in_both(c, c.shared.v_empty() + c.v_at.stage * MBARRIER_BYTES, where);
  c.v_at.advance();
}

// run_roles for a CTA of a pair.
template <class C, class Consume>
ATTNBENCH_DEVICE void run_pair_roles(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map,
                                     const ptx::TensorMap& v_map, const ptx::TensorMap& out_map,
                                     const ForwardParams& params, const Consume& consume) {
  const Addresses<C> shared = {shared_base()};
  if (thread_index() == 0) {
    for (const ptx::TensorMap* map : {&q_map, &k_map, &v_map, &out_map}) ptx::prefetch_tensormap(map);
    init_all_barriers(shared, PAIR_CTAS * C::consumer_warpgroups);
  }
  ptx::warp_sync();
  // Both CTAs run and both CTAs' barriers are there, before either one copies or arrives at the other.
  ptx::cluster_arrive();
  ptx::cluster_wait();
  split_roles<C>(
      [&] { produce(PairProducer<C>{{q_map, k_map, v_map, params, shared, {}, {}, {}}}); },
      [&](int warpgroup) { consume(shared, warpgroup); });
  ptx::warp_sync();
  // Neither CTA leaves while the other one may still arrive at its barriers.
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

}  // namespace attnbench
