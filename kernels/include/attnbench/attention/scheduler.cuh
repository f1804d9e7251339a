// Which output tile a CTA works on, and in which order.
//
// Tiles are numbered so that consecutive numbers run at the same time and share keys and values in L2: sections of a
// few heads, within a section one tile of query rows of every head before the next tile of rows; causal rows from the
// last (most keys) to the first, so that the long tiles start first and the short ones fill the end
// (longest-processing-time-first, Graham 1969).
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/ptx/warp.cuh>

namespace attnbench {

struct Tile {
  int first_row;  // negative: there is no further tile
  int head;
  int batch;
  int key_tiles;
};

constexpr int NO_TILE = -1;
constexpr uint32_t TILE_BYTES = 16;

// The tile with this number. Tile rows, columns: queries and keys of the kernel's tile.
template <bool Causal, int TileM, int TileN>
ATTNBENCH_DEVICE Tile tile_at(const ForwardParams& params, int number) {
  const int row_tiles = ceil_divide(params.seqlen_q, TileM);
  const int section = number / (params.heads_per_section * row_tiles);
  const int first_head = section * params.heads_per_section;
  const int heads_left = params.num_heads * params.batch - first_head;
  const int heads = heads_left < params.heads_per_section ? heads_left : params.heads_per_section;
  const int within = number - first_head * row_tiles;
  const int row_tile = within / heads;
  const int head_and_batch = first_head + within - row_tile * heads;
  Tile tile;
  tile.first_row = (Causal ? row_tiles - 1 - row_tile : row_tile) * TileM;
  tile.batch = head_and_batch / params.num_heads;
  tile.head = head_and_batch - tile.batch * params.num_heads;
  tile.key_tiles = key_tiles<Causal>(tile.first_row, TileM, TileN, params.seqlen_q, params.seqlen_k);
  return tile;
}

template <int TileM>
ATTNBENCH_CONSTEXPR int tile_count(const ForwardParams& params) {
  return ceil_divide(params.seqlen_q, TileM) * params.num_heads * params.batch;
}

// Number of the tile after `number` in a persistent CTA. With a counter (0 at launch) tiles go to whoever is free,
// which evens out tiles of unequal length; without one a CTA takes every grid_size-th.
ATTNBENCH_DEVICE int next_tile_number(const ForwardParams& params, int number, Where where = ATTNBENCH_WHERE) {
  if (params.tile_counter == nullptr) return number + grid_size();
  return grid_size() + ptx::atomic_add_global(params.tile_counter, 1, where);
}

// A tile handed from the producer to a consumer warpgroup through 16 bytes of shared memory. Ordered by the barrier
// that also announces the tile's queries.
ATTNBENCH_DEVICE void publish_tile(uint32_t slot, const Tile& tile, Where where = ATTNBENCH_WHERE) {
  ptx::store_shared_b128(
      slot, {uint32_t(tile.first_row), uint32_t(tile.head), uint32_t(tile.batch), uint32_t(tile.key_tiles)}, where);
}

ATTNBENCH_DEVICE Tile read_tile(uint32_t slot, Where where = ATTNBENCH_WHERE) {
  uint32_t words[4];
  ptx::load_shared_b128(words, slot, where);
  // NOTE: through shuffles, so that ptxas knows the tile to be the same in the whole warp; without, loop counters and
  // with them descriptors leave the uniform registers.
  ATTNBENCH_UNROLL
  for (int i = 0; i < 4; ++i) words[i] = ptx::shuffle_index(words[i], 0, where);
  return {int(words[0]), int(words[1]), int(words[2]), int(words[3])};
}

}  // namespace attnbench
