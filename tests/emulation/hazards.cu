// Tiny kernels that each hold one planted fault, and their sound versions (Fault::none). The table at the end says what
// the emulation must report; test_hazards.py runs it under every delivery.
#include <attnbench/host.h>
#include <attnbench/layout.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/convert.cuh>
#include <attnbench/ptx/fence.cuh>
#include <attnbench/ptx/matrix.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/ptx/registers.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/warp.cuh>
#include <attnbench/ptx/wgmma.cuh>

using namespace attnbench;

enum class Fault {
  none,
  no_wait,
  wrong_parity,
  waits_too_far,
  fewer_bytes,
  more_bytes,
  no_init_fence,
  no_init_sync,
  twice,
  no_init,
  leaves_load,
  misaligned,
  outside,
  no_empty_wait,
  no_fence,
  no_commit,
  no_wgmma_wait,
  touches_accumulator,
  touches_fragment,
  fragment_after_fence,
  overwritten_operand,
  no_proxy_fence,
  no_sync,
  one_warp_skips,
  reserved_bits,
  other_descriptor,
  no_store_wait,
  no_store_commit,
  reuses_before_read,
  no_warp_sync,
  shuffle_for_sync,
  wrong_count,
  missing_arrival,
  late_arrival,
  no_dec,
  one_warp_dec,
  inc_below,
  divergent,
  over_barrier,
  split_warp,
  endless,
  wrong_read,
  fence_first,
  init_twice,
  accumulator_after_fence,
};

#include "hazard_cases.h"

constexpr uint32_t TILE_A = 0, TILE_B = TILE_SIZE, BARRIERS = 2 * TILE_SIZE;
constexpr int SHARED_SIZE = 2 * TILE_SIZE + 256;

// ---- loads and mbarriers ----

ATTNBENCH_DEVICE void start_load(const Arguments& a, uint32_t destination, uint32_t barrier, int row = 0) {
  uint32_t bytes = TILE_SIZE;
  if (a.fault == Fault::fewer_bytes) bytes /= 2;
  if (a.fault == Fault::more_bytes) bytes *= 2;
  if (a.fault == Fault::misaligned) destination += 64;
  if (a.fault == Fault::outside) destination += 2 * TILE_SIZE;
  ptx::mbarrier_arrive_expect_tx(barrier, bytes);
  ptx::tma_load_4d(destination, &a.source, barrier, 0, row, 0, 0, ptx::EVICT_NORMAL);
}

ATTNBENCH_DEVICE void init(const Arguments& a, uint32_t barrier, int count, uint32_t arrivals = 1) {
  if (thread_index() == 0) {
    if (a.fault != Fault::no_init) init_barriers(barrier, count, arrivals, "full");
    if (a.fault == Fault::init_twice) init_barriers(barrier, count, arrivals, "full");
    if (a.fault != Fault::no_init_fence) ptx::fence_mbarrier_init();
  }
  if (a.fault != Fault::no_init_sync) ptx::cta_sync();
}

// Every thread reads its row's first word of a loaded tile.
void load_and_read(Arguments a) {
  const uint32_t base = shared_base(), barrier = base + BARRIERS;
  init(a, barrier, 1);
  if (thread_index() == 0) {
    start_load(a, base + TILE_A, barrier);
    if (a.fault == Fault::twice) ptx::mbarrier_arrive(barrier);
    if (a.fault == Fault::over_barrier) ptx::store_shared_b32(barrier, 0);
  }
  if (a.fault == Fault::leaves_load) return;
  const uint32_t parity = a.fault == Fault::wrong_parity ? 1 : 0;
  if (a.fault == Fault::waits_too_far) wait_barrier(barrier, 0), wait_barrier(barrier, 1);
  if (a.fault != Fault::no_wait) wait_barrier(barrier, parity);
  if (thread_index() < TILE_ROWS) {
    a.out[thread_index()] = float(ptx::load_shared_b32(base + TILE_A + uint32_t(thread_index()) * 128));
  }
}

// Warp 0 loads six tiles into two stages; warp 1 reads them.
void ring(Arguments a) {
  const uint32_t base = shared_base(), full = base + BARRIERS, empty = full + 16;
  init(a, full, 2);
  if (thread_index() == 0) init_barriers(empty, 2, 1, "empty");
  ptx::cta_sync();
  RingPosition<2> at;
  for (int i = 0; i < 6; ++i, at.advance()) {
    if (thread_index() == 0) {
      if (a.fault != Fault::no_empty_wait) wait_empty(empty, at);
      start_load(a, base + uint32_t(at.stage) * TILE_SIZE, full + uint32_t(at.stage) * 8, i);
    }
    if (thread_index() / 32 == 1) {
      wait_full(full, at);
      a.out[thread_index() % 32] =
          float(ptx::load_shared_b32(base + uint32_t(at.stage) * TILE_SIZE + uint32_t(thread_index() % 32) * 128));
      if (a.fault != Fault::no_warp_sync) ptx::warp_sync();
      if (thread_index() == 32 && !(a.fault == Fault::missing_arrival && i == 2))
        ptx::mbarrier_arrive(empty + uint32_t(at.stage) * 8);
    }
  }
}

// ---- wgmma ----

// out += P A twice, P from registers.
ATTNBENCH_DEVICE void add_weighted(const Arguments& a, float (&out)[32], uint32_t (&p)[4][4]) {
  const uint64_t dv = mn_major_descriptor(shared_base() + TILE_A, 64);
  for (int round = 0; round < 2; ++round) {
    ptx::wgmma_fence();
    if (round == 1 && a.fault == Fault::fragment_after_fence) p[0][0] ^= 1;
    if (round == 1 && a.fault == Fault::accumulator_after_fence) out[3] = 1.0f;
    for (int k = 0; k < 4; ++k) ptx::wgmma_rs<Dtype::fp16, 64, true>(out, p[k], dv + mn_major_step(k), true);
    ptx::wgmma_commit_group();
    if (round == 0 && a.fault == Fault::touches_fragment) p[2][1] ^= 1;
    ptx::wgmma_wait_group<0>();
  }
}

// scores = A B^T on two loaded tiles; then the scores, rounded, as weights of A.
void multiply(Arguments a) {
  const uint32_t base = shared_base(), barrier = base + BARRIERS;
  init(a, barrier, 2);
  if (thread_index() == 0) {
    start_load(a, base + TILE_A, barrier);
    start_load(a, base + TILE_B, barrier + 8, 8);
  }
  wait_barrier(barrier, 0);
  wait_barrier(barrier + 8, 0);
  float scores[32], out[32];
  uint32_t p[4][4];
  for (float& x : out) x = 0.0f;
  uint64_t da = k_major_descriptor(base + TILE_A), db = k_major_descriptor(base + TILE_B);
  if (a.fault == Fault::reserved_bits) db |= uint64_t{1} << 50;
  if (a.fault == Fault::other_descriptor && thread_index() == 77) db += 2;
  if (a.fault != Fault::no_fence) ptx::wgmma_fence();
  if (a.fault == Fault::one_warp_skips && thread_index() / 32 == 2) return;
  for (int k = 0; k < 4; ++k)
    ptx::wgmma_ss<Dtype::fp16, 64>(scores, da + k_major_step(k, 64), db + k_major_step(k, 64), k > 0);
  if (a.fault != Fault::no_commit) ptx::wgmma_commit_group();
  if (a.fault == Fault::touches_accumulator) scores[5] = 1.0f;
  if (a.fault == Fault::overwritten_operand && thread_index() == 0) start_load(a, base + TILE_B, barrier + 8);
  if (a.fault != Fault::no_wgmma_wait) ptx::wgmma_wait_group<0>();
  for (int i = 0; i < 16; ++i) p[i / 4][i % 4] = ptx::pack_f16x2(scores[2 * i], scores[2 * i + 1]);
  add_weighted(a, out, p);
  for (int i = 0; i < 32; ++i) a.out[thread_index() * 32 + i] = scores[i] + out[i];
  if (a.fault == Fault::overwritten_operand) wait_barrier(barrier + 8, 1);
}

// A tile written by ordinary stores, then read by wgmma.
void written_operand(Arguments a) {
  const uint32_t base = shared_base();
  for (uint32_t at = uint32_t(thread_index()) * 16; at < 2 * TILE_SIZE; at += 128 * 16) {
    ptx::store_shared_b128(base + at, {at, at, at, at});
  }
  if (a.fault != Fault::no_proxy_fence && a.fault != Fault::fence_first) ptx::fence_proxy_async_shared();
  if (a.fault != Fault::no_sync) ptx::cta_sync();
  float d[32];
  ptx::wgmma_fence();
  ptx::wgmma_ss<Dtype::bf16, 64>(d, k_major_descriptor(base), k_major_descriptor(base + TILE_B), false);
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  a.out[thread_index()] = d[0];
}

// ---- stores ----

// Writes a tile by stmatrix and stores it by TMA, twice from the same memory.
void store_tile(Arguments a) {
  const uint32_t base = shared_base();
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  for (int round = 0; round < 2; ++round) {
    for (uint32_t column = 0; column < 64; column += 16) {
      const uint32_t row = uint32_t(warp * 16 + lane % 16), chunk = column / 8 + uint32_t(lane / 16);
      const uint32_t address = base + swizzle_128b(row * 128 + chunk * 16);
      ptx::stmatrix_x4(address, 1, 2, 3, uint32_t(round));
    }
    if (a.fault != Fault::no_proxy_fence && !(a.fault == Fault::fence_first && thread_index() != 0))
      ptx::fence_proxy_async_shared();
    if (a.fault != Fault::no_sync) ptx::cta_sync();
    if (thread_index() == 0) {
      ptx::tma_store_4d(&a.target, base, 0, 40 * round, 0, 0);
      if (a.fault != Fault::no_store_commit) ptx::bulk_commit_group();
      if (a.fault != Fault::no_store_wait && !(a.fault == Fault::reuses_before_read && round == 0))
        ptx::bulk_wait_group_read<0>();
    }
    ptx::cta_sync();
  }
}

// One warp writes 16 bytes a lane; one elected lane stores the tile by TMA.
void store_by_warp(Arguments a) {
  const uint32_t base = shared_base();
  for (uint32_t at = uint32_t(thread_index()) * 16; at < TILE_SIZE; at += 32 * 16)
    ptx::store_shared_b128(base + at, {1, 2, 3, 4});
  if (a.fault != Fault::fence_first) ptx::fence_proxy_async_shared();
  if (a.fault == Fault::shuffle_for_sync) {
    ptx::shuffle_xor(1, 1);
  } else if (a.fault != Fault::no_warp_sync) {
    ptx::warp_sync();
  }
  if (ptx::elect_one()) {
    // A fence after the hand-over orders what this thread knows of; before it, only what it wrote itself.
    if (a.fault == Fault::fence_first) ptx::store_shared_b32(base, 9);
    ptx::tma_store_4d(&a.target, base, 0, 0, 0, 0);
    ptx::bulk_commit_group();
    ptx::bulk_wait_group<0>();
  }
}

// ---- named barriers, warps, registers ----

void hand_over(Arguments a) {
  const uint32_t base = shared_base();
  const int warp = thread_index() / 32;
  if (warp == 0) {
    ptx::store_shared_b32(base + uint32_t(thread_index()) * 4, 7);
    if (a.fault == Fault::late_arrival) ptx::store_shared_b32(base + 512, 1);
    if (a.fault == Fault::missing_arrival) return;
    if (a.fault == Fault::split_warp && thread_index() < 16) return;
    ptx::barrier_arrive(1, a.fault == Fault::wrong_count ? 96 : 64);
    if (a.fault == Fault::late_arrival) ptx::store_shared_b32(base + 512, 2);
    if (a.fault == Fault::twice) ptx::barrier_arrive(1, 64);
  } else {
    if (a.fault != Fault::no_sync) ptx::barrier_sync(1, 64);
    const uint32_t at = a.fault == Fault::late_arrival ? 512u : uint32_t(thread_index() - 32) * 4;
    a.out[thread_index()] = float(ptx::load_shared_b32(base + at));
    if (a.fault == Fault::split_warp) ptx::barrier_sync(2, thread_index() == 40 ? 32 : 64);
  }
}

// Lanes exchange words through shared memory.
void exchange(Arguments a) {
  const uint32_t base = shared_base(), lane = uint32_t(thread_index());
  ptx::store_shared_b32(base + lane * 4, lane);
  if (a.fault == Fault::shuffle_for_sync) ptx::shuffle_index(1, 0);
  if (a.fault == Fault::divergent && lane == 3) ptx::any_sync(true);
  if (a.fault != Fault::no_warp_sync && a.fault != Fault::shuffle_for_sync) ptx::warp_sync();
  if (a.fault == Fault::misaligned) ptx::load_shared_b32(base + 2);
  if (a.fault == Fault::outside) ptx::load_shared_b32(base + SHARED_SIZE);
  a.out[lane] = float(ptx::load_shared_b32(base + (lane ^ 1u) * 4));
  while (a.fault == Fault::endless) ptx::warp_sync();
}

// 384 threads start with 168 registers; one warpgroup gives 144 each, two take 72 each.
void reallocate(Arguments a) {
  const int warpgroup = thread_index() / 128;
  if (warpgroup == 0) {
    if (a.fault == Fault::no_dec || (a.fault == Fault::one_warp_dec && thread_index() >= 32)) return;
    ptx::setmaxnreg_dec<24>();
  } else {
    if (a.fault == Fault::inc_below) ptx::setmaxnreg_inc<160>();
    ptx::setmaxnreg_inc<240>();
  }
}

// ---- the table ----

static const Case CASES[] = {
    {"load_and_read", load_and_read, 64, Fault::none, ""},
    {"load_and_read without a wait", load_and_read, 64, Fault::no_wait, "race"},
    {"load_and_read on the wrong parity", load_and_read, 64, Fault::wrong_parity, "race deadlock"},
    {"load_and_read waiting a phase too far", load_and_read, 64, Fault::waits_too_far, "deadlock"},
    {"load_and_read expecting half the bytes", load_and_read, 64, Fault::fewer_bytes, "deadlock mbarrier"},
    {"load_and_read expecting twice the bytes", load_and_read, 64, Fault::more_bytes, "deadlock"},
    {"load_and_read without fence_mbarrier_init", load_and_read, 64, Fault::no_init_fence, "proxy_fence"},
    {"load_and_read without a sync after init", load_and_read, 64, Fault::no_init_sync, "race mbarrier"},
    {"load_and_read with one arrival too many", load_and_read, 64, Fault::twice, "mbarrier deadlock"},
    {"load_and_read without init", load_and_read, 64, Fault::no_init, "mbarrier"},
    {"load_and_read initializing twice", load_and_read, 64, Fault::init_twice, "mbarrier"},
    {"load_and_read exiting early", load_and_read, 64, Fault::leaves_load, "in_flight_at_exit"},
    {"load_and_read to a misaligned address", load_and_read, 64, Fault::misaligned, "out_of_bounds"},
    {"load_and_read past the end", load_and_read, 64, Fault::outside, "out_of_bounds"},
    {"load_and_read storing over the barrier", load_and_read, 64, Fault::over_barrier, "mbarrier"},
    {"ring", ring, 64, Fault::none, ""},
    {"ring without waiting for empty", ring, 64, Fault::no_empty_wait, "race mbarrier"},
    {"ring with a missing release", ring, 64, Fault::missing_arrival, "deadlock"},
    {"ring releasing before the warp has met", ring, 64, Fault::no_warp_sync, "race"},
    {"multiply", multiply, 128, Fault::none, ""},
    {"multiply without wgmma_fence", multiply, 128, Fault::no_fence, "wgmma_fence"},
    {"multiply without commit", multiply, 128, Fault::no_commit, "accumulator"},
    {"multiply without wait", multiply, 128, Fault::no_wgmma_wait, "accumulator"},
    {"multiply touching an accumulator in flight", multiply, 128, Fault::touches_accumulator, "accumulator"},
    {"multiply touching an A fragment in flight", multiply, 128, Fault::touches_fragment, "operand"},
    {"multiply changing an A fragment after the fence", multiply, 128, Fault::fragment_after_fence, "wgmma_fence"},
    {"multiply changing an accumulator after the fence", multiply, 128, Fault::accumulator_after_fence, "wgmma_fence"},
    {"multiply with its operand overwritten", multiply, 128, Fault::overwritten_operand, "race"},
    {"multiply without one warp", multiply, 128, Fault::one_warp_skips, "deadlock"},
    {"multiply with reserved descriptor bits", multiply, 128, Fault::reserved_bits, "descriptor"},
    {"multiply with one thread's descriptor off", multiply, 128, Fault::other_descriptor, "divergence"},
    {"written_operand", written_operand, 128, Fault::none, ""},
    {"written_operand without a proxy fence", written_operand, 128, Fault::no_proxy_fence, "proxy_fence"},
    {"written_operand without a sync", written_operand, 128, Fault::no_sync, "race"},
    {"store_tile", store_tile, 128, Fault::none, ""},
    {"store_tile without a proxy fence", store_tile, 128, Fault::no_proxy_fence, "proxy_fence"},
    {"store_tile with the proxy fence in one thread", store_tile, 128, Fault::fence_first, "proxy_fence"},
    {"store_tile without a sync", store_tile, 128, Fault::no_sync, "race"},
    {"store_tile without commit", store_tile, 128, Fault::no_store_commit, "race bulk_group"},
    {"store_tile without any wait", store_tile, 128, Fault::no_store_wait, "race"},
    {"store_tile reusing memory before it is read", store_tile, 128, Fault::reuses_before_read, "race"},
    {"store_by_warp", store_by_warp, 32, Fault::none, ""},
    {"store_by_warp without warp_sync", store_by_warp, 32, Fault::no_warp_sync, "race"},
    {"store_by_warp with a shuffle for warp_sync", store_by_warp, 32, Fault::shuffle_for_sync, "race"},
    {"store_by_warp storing again after the sync", store_by_warp, 32, Fault::fence_first, "proxy_fence"},
    {"hand_over", hand_over, 64, Fault::none, ""},
    {"hand_over with different counts", hand_over, 64, Fault::wrong_count, "named_barrier"},
    {"hand_over without an arrival", hand_over, 64, Fault::missing_arrival, "deadlock"},
    {"hand_over writing after the arrival", hand_over, 64, Fault::late_arrival, "race"},
    {"hand_over with half a warp", hand_over, 64, Fault::split_warp, "deadlock named_barrier"},
    {"hand_over arriving twice", hand_over, 64, Fault::twice, "named_barrier race deadlock"},
    {"hand_over without waiting", hand_over, 64, Fault::no_sync, "race"},
    {"exchange", exchange, 32, Fault::none, ""},
    {"exchange without warp_sync", exchange, 32, Fault::no_warp_sync, "race"},
    {"exchange with a shuffle for warp_sync", exchange, 32, Fault::shuffle_for_sync, "race"},
    {"exchange with a divergent lane", exchange, 32, Fault::divergent, "divergence"},
    {"exchange reading misaligned", exchange, 32, Fault::misaligned, "out_of_bounds"},
    {"exchange reading past the end", exchange, 32, Fault::outside, "out_of_bounds"},
    {"exchange without end", exchange, 32, Fault::endless, "runaway"},
    {"reallocate", reallocate, 384, Fault::none, ""},
    {"reallocate without a dec", reallocate, 384, Fault::no_dec, "deadlock"},
    {"reallocate with one warp of four", reallocate, 384, Fault::one_warp_dec, "deadlock"},
    {"reallocate to fewer by inc", reallocate, 384, Fault::inc_below, "registers"},
};

HAZARD_EXPORTS
