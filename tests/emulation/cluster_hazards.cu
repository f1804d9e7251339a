// Tiny kernels of two CTAs in a cluster, each with one planted fault, and their sound versions (Fault::none). The table
// at the end says what the emulation must report; test_hazards.py runs it under every delivery.
#include <attnbench/host.h>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/cluster.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/warp.cuh>

enum class Fault {
  none,
  no_first_barrier,
  no_last_barrier,
  no_init_fence,
  half_the_bytes,
  twice_the_bytes,
  own_mask,
  other_mask,
  outside_mask,
  no_empty_wait,
  no_remote_arrival,
  two_home_arrivals,
  home_count,
  twice,
  early_release,
  no_remote_map,
  outside_rank,
  local_instruction,
  leaves_at_once,
  leaves_load,
  barrier_twice,
  barrier_unentered,
  one_warp_skips,
  divergent,
};

#include "hazard_cases.h"

constexpr int ROUNDS = 4;
constexpr uint32_t FULL = 2 * TILE_SIZE, EMPTY = FULL + MBARRIER_BYTES;
constexpr int SHARED_SIZE = 2 * TILE_SIZE + 256;

ATTNBENCH_DEVICE void pass_cluster_barrier() {
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

ATTNBENCH_DEVICE void init(const Arguments& a, uint32_t base) {
  if (thread_index() == 0) {
    init_barriers(base + FULL, 1, 1, "full");
    init_barriers(base + EMPTY, 1, a.fault == Fault::home_count ? 1 : 2, "empty");
    if (a.fault != Fault::no_init_fence) ptx::fence_mbarrier_init();
  }
  if (a.fault != Fault::no_first_barrier) pass_cluster_barrier();
}

// ---- a tile of each CTA for both ----

// Writes one tile, of which the other CTA's producer writes the other, into both CTAs.
ATTNBENCH_DEVICE void load_own_half(const Arguments& a, uint32_t base, const RingPosition<1>& at, int round) {
  if (a.fault != Fault::no_empty_wait) wait_empty(base + EMPTY, at);
  uint32_t bytes = 2 * TILE_SIZE;
  if (a.fault == Fault::half_the_bytes) bytes /= 2;
  if (a.fault == Fault::twice_the_bytes) bytes *= 2;
  ptx::mbarrier_arrive_expect_tx(base + FULL, bytes);
  const int rank = ptx::cluster_rank();
  uint16_t mask = 0b11;
  if (a.fault == Fault::own_mask) mask = uint16_t(1u << rank);
  if (a.fault == Fault::other_mask) mask = uint16_t(2u >> rank);
  if (a.fault == Fault::outside_mask) mask = 0b111;
  ptx::tma_load_multicast_4d(base + uint32_t(rank) * TILE_SIZE, &a.source, base + FULL, 0, 8 * round, 0, 0, mask,
                             ptx::EVICT_NORMAL);
}

// Hands the two tiles back to both producers: lane 0 to CTA 0, lane 1 to CTA 1.
ATTNBENCH_DEVICE void release(const Arguments& a, uint32_t base) {
  const int lane = thread_index() % 32, rank = ptx::cluster_rank();
  if (lane >= 2 || (a.fault == Fault::no_remote_arrival && lane != rank)) return;
  const uint32_t empty = base + EMPTY;
  if (a.fault == Fault::local_instruction) {
    ptx::mbarrier_arrive(ptx::map_to_cta(empty, lane));
    return;
  }
  const int wanted = a.fault == Fault::two_home_arrivals ? rank : a.fault == Fault::outside_rank ? lane + 1 : lane;
  const uint32_t there = a.fault == Fault::no_remote_map ? empty : ptx::map_to_cta(empty, wanted);
  ptx::mbarrier_arrive_cluster(there);
  if (a.fault == Fault::twice) ptx::mbarrier_arrive_cluster(there);
}

// Warp 0 of each CTA loads, warp 1 reads both tiles and releases them.
void share(Arguments a) {
  const uint32_t base = shared_base();
  init(a, base);
  RingPosition<1> at;
  for (int round = 0; round < ROUNDS; ++round, at.advance()) {
    if (thread_index() == 0) load_own_half(a, base, at, round);
    if (a.fault == Fault::leaves_load && round == 0) return;
    if (thread_index() / 32 != 1) continue;
    wait_full(base + FULL, at);
    if (a.fault == Fault::early_release) release(a, base);
    const uint32_t row = uint32_t(thread_index() % 32) * 128;
    a.out[ptx::cluster_rank() * 32 + thread_index() % 32] =
        float(ptx::load_shared_b32(base + row)) + float(ptx::load_shared_b32(base + TILE_SIZE + row));
    ptx::warp_sync();
    if (a.fault != Fault::early_release) release(a, base);
  }
  ptx::warp_sync();
  if (a.fault != Fault::no_last_barrier) pass_cluster_barrier();
}

// CTA 1 arrives at CTA 0, which may have left.
void notify(Arguments a) {
  const uint32_t base = shared_base();
  init(a, base);
  if (ptx::cluster_rank() == 1 && thread_index() == 0) {
    ptx::mbarrier_arrive_cluster(ptx::map_to_cta(base + FULL, 0));
  }
  if (ptx::cluster_rank() == 0 && a.fault != Fault::leaves_at_once) wait_barrier(base + FULL, 0);
}

// The cluster's barrier alone, and who passes it.
void meet_in_cluster(Arguments a) {
  if (a.fault != Fault::barrier_unentered) ptx::cluster_arrive();
  if (a.fault == Fault::barrier_twice) ptx::cluster_arrive();
  if (a.fault == Fault::divergent && thread_index() == 5) return;
  ptx::cluster_wait();
}

// One warp arrives while the others wait for what only comes after.
void wait_for_nobody(Arguments a) {
  const uint32_t base = shared_base();
  init(a, base);
  if (ptx::cluster_rank() == 1 && thread_index() / 32 == 1) {
    if (a.fault == Fault::one_warp_skips) wait_barrier(base + FULL, 0);
    pass_cluster_barrier();
    return;
  }
  pass_cluster_barrier();
  if (thread_index() == 0 && ptx::cluster_rank() == 1) ptx::mbarrier_arrive(base + FULL);
}

// ---- the table ----

static const Case CASES[] = {
    {"share", share, 128, Fault::none, "", 2},
    {"share without the first cluster barrier", share, 128, Fault::no_first_barrier, "race mbarrier", 2},
    {"share without the last cluster barrier", share, 128, Fault::no_last_barrier, "cluster", 2},
    {"share without fence_mbarrier_init", share, 128, Fault::no_init_fence, "proxy_fence", 2},
    {"share expecting one half", share, 128, Fault::half_the_bytes, "race mbarrier deadlock", 2},
    {"share expecting twice the bytes", share, 128, Fault::twice_the_bytes, "deadlock", 2},
    {"share with a mask of the own CTA", share, 128, Fault::own_mask, "deadlock", 2},
    {"share with a mask of the other CTA", share, 128, Fault::other_mask, "deadlock", 2},
    {"share with a mask past the cluster", share, 128, Fault::outside_mask, "cluster", 2},
    {"share without waiting for empty", share, 128, Fault::no_empty_wait, "race mbarrier", 2},
    {"share without the remote arrival", share, 128, Fault::no_remote_arrival, "deadlock", 2},
    {"share with both arrivals at home", share, 128, Fault::two_home_arrivals, "race mbarrier deadlock", 2},
    {"share counting the own consumers only", share, 128, Fault::home_count, "race mbarrier deadlock", 2},
    {"share arriving twice", share, 128, Fault::twice, "race mbarrier deadlock", 2},
    {"share releasing before reading", share, 128, Fault::early_release, "race", 2},
    {"share with an address that is not mapped", share, 128, Fault::no_remote_map, "race mbarrier deadlock", 2},
    {"share with a rank past the cluster", share, 128, Fault::outside_rank, "cluster", 2},
    {"share by an instruction of the own CTA", share, 128, Fault::local_instruction, "out_of_bounds", 2},
    {"share leaving a load", share, 128, Fault::leaves_load, "in_flight_at_exit cluster", 2},
    {"notify", notify, 128, Fault::none, "", 2},
    {"notify a CTA that has left", notify, 128, Fault::leaves_at_once, "cluster", 2},
    {"meet_in_cluster", meet_in_cluster, 128, Fault::none, "", 2},
    {"meet_in_cluster arriving twice", meet_in_cluster, 128, Fault::barrier_twice, "cluster", 2},
    {"meet_in_cluster waiting only", meet_in_cluster, 128, Fault::barrier_unentered, "cluster", 2},
    {"meet_in_cluster with a lane that left", meet_in_cluster, 128, Fault::divergent, "deadlock", 2},
    {"wait_for_nobody", wait_for_nobody, 128, Fault::none, "", 2},
    {"wait_for_nobody with a warp that waits for it", wait_for_nobody, 128, Fault::one_warp_skips, "deadlock", 2},
};

HAZARD_EXPORTS
