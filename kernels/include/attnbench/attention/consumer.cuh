// What a consumer warpgroup of a persistent, warp-specialized kernel does around its products and its softmax: turns,
// handing stages back, receiving tiles, storing them. When each is done is the schedule, which the kernel owns. Config
// members read here: dtype, causal, head_dim, tile_n, stages, q_stages, consumer_warpgroups, turns, Exponentials,
// staged_output, producer_registers, consumer_registers.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/output.cuh>
#include <attnbench/attention/persistent.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/attention/products.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/registers.cuh>
#include <attnbench/attention/scheduler.cuh>
#include <attnbench/attention/softmax.cuh>
#include <attnbench/turns.cuh>

#include <type_traits>

namespace attnbench {

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
  VisibleKeys visible;
  float scores[C::tile_n / 2];  // then, in place, the weights
  uint32_t weights[C::tile_n / step_k(C::dtype)][4];
  float output[C::head_dim / 2];
  SoftmaxRows rows;

  ATTNBENCH_DEVICE_MEMBER int first_row() const { return tile.first_row + warpgroup * WARPGROUP_ROWS; }
  ATTNBENCH_DEVICE_MEMBER int row() const { return first_row() + accumulator_row(thread, 0); }
};

// Warpgroups may take turns in issuing products, so that one computes its softmax while another has the tensor cores.
template <class C>
ATTNBENCH_DEVICE void begin_turn(const Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  if (C::turns) take_turn(c.warpgroup, where);
}

template <class C>
ATTNBENCH_DEVICE void end_turn(const Consumer<C>& c, Where where = ATTNBENCH_WHERE) {
  if (C::turns) pass_turn<C::consumer_warpgroups>(c.warpgroup, where);
}

template <class C>
ATTNBENCH_DEVICE void issue_scores(Consumer<C>& c, int j, Where where = ATTNBENCH_WHERE) {
  wait_full(c.shared.k_full(), c.k_at, where);
  ptx::wgmma_fence(where);  // NOTE: after the wait loop; before it, ptxas injects another (C7519)
  constexpr bool held = C::head_dim == 256 || (C::dtype != Dtype::e4m3 && C::tile_n <= 128);
  issue_query_key<C::dtype, C::head_dim, C::tile_n, WARPGROUP_ROWS>(
      c.scores, c.shared.q(c.warpgroup, c.q_at.stage), c.shared.k(c.k_at.stage), hold_in_loop<held>(j), where);
  ptx::wgmma_commit_group(where);
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

// Polynomials where no score is hidden: of the few tiles that are masked, comparisons load the pipes enough.
template <bool Masked, class C>
using PolynomialsOf = std::conditional_t<Masked, NoPolynomials, typename C::Exponentials>;

// Exponentials of tile j while PV of tile j-1 is in flight. The static inspection checks that every one of them stands
// before the wait for that product.
template <bool Masked, class C>
ATTNBENCH_DEVICE void exponentiate_under_products(Consumer<C>& c, float scale_log2) {
  exponentiate<Masked ? RowKeys::maybe_none : RowKeys::some, PolynomialsOf<Masked, C>>(c.rows, c.scores, scale_log2);
  hold_above_wait(c, c.rows.sum[0] < 0.0f || c.rows.sum[1] < 0.0f);  // no sum is negative, nor does NaN compare
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
  c.visible = visible_to_thread<C::causal>(c.thread, c.row(), c.params.seqlen_q, c.params.seqlen_k);
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
  // Kept where it depends on the row; else it costs two instructions here, or a register all along.
  const VisibleKeys same = visible_to_thread<false>(c.thread, 0, c.params.seqlen_q, c.params.seqlen_k);
  mask_scores<C::causal>(c.scores, C::causal ? c.visible : same, j * C::tile_n);
}

// Stores the finished, normalized output of `tile`, rounded to Out, and its LSE.
template <Dtype Out, class C>
ATTNBENCH_DEVICE void store_tile(Consumer<C>& c, const Tile& tile, const float (&lse)[ROWS_PER_THREAD],
                                 Where where = ATTNBENCH_WHERE) {
  const int first_row = tile.first_row + c.warpgroup * WARPGROUP_ROWS;
  const int row = first_row + accumulator_row(c.thread, 0);
  store_lse(c.params, lse, c.thread, row, tile.head, tile.batch);
  if constexpr (C::staged_output) {
    const int warp_row = c.thread / WARP_THREADS * WARP_ROWS;
    const uint32_t staging = c.shared.out(c.warpgroup) + panel_bytes(warp_row);
    const bool elected = ptx::elect_one(where);
    if (elected) ptx::bulk_wait_group_read<0>(where);  // the copy of the tile before, long done
    ptx::warp_sync(where);
    stage_output<Out, WARPGROUP_ROWS>(staging, c.output, c.thread % WARP_THREADS, where);
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
    store_output_wide<Out>(c.params, c.output, c.thread, row, tile.head, tile.batch, where);
  }
}

// Where barriers are initialized and visible: one thread of the first warpgroup runs produce(), every other warpgroup
// consume(warpgroup).
template <class C, class Produce, class Consume>
ATTNBENCH_DEVICE void split_roles(const Produce& produce, const Consume& consume) {
  // NOTE: through a shuffle, so that ptxas knows the value to be the same in the whole warp and keeps descriptors in
  // uniform registers.
  const int warpgroup = ptx::shuffle_index(thread_index() / WARPGROUP_THREADS, 0);
  if (warpgroup == 0) {
    ptx::setmaxnreg_dec<C::producer_registers>();
    if (thread_index() < WARP_THREADS && ptx::elect_one()) produce();
  } else {
    ptx::setmaxnreg_inc<C::consumer_registers>();
    consume(warpgroup - 1);
  }
}

// What the warpgroups of a CTA do: the first one's thread produces, every other one runs consume(shared, warpgroup).
template <class C, class Consume>
ATTNBENCH_DEVICE void run_roles(const ptx::TensorMap& q_map, const ptx::TensorMap& k_map, const ptx::TensorMap& v_map,
                                const ptx::TensorMap& out_map, const ForwardParams& params, const Consume& consume) {
  const Addresses<C> shared = {shared_base()};
  if (thread_index() == 0) {
    for (const ptx::TensorMap* map : {&q_map, &k_map, &v_map, &out_map}) ptx::prefetch_tensormap(map);
    init_all_barriers(shared);
  }
  ptx::cta_sync();
  split_roles<C>([&] { produce(Producer<C>{q_map, k_map, v_map, params, shared, {}, {}, {}}); },
                 [&](int warpgroup) { consume(shared, warpgroup); });
}

}  // namespace attnbench
