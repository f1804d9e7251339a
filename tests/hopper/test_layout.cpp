// Enumerates the layout maps, masks and tile orders that the kernels rely on and holds each against a formulation of
// its own. Run by test_layout.py: test_layout <section>; prints "<comparisons> <mismatches>".
#include <attnbench/layout.cuh>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/polynomial.cuh>
#include <attnbench/attention/scheduler.cuh>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>
#include <tuple>
#include <vector>

using namespace attnbench;

static long comparisons = 0;
static long mismatches = 0;

static void expect(bool good) {
  ++comparisons;
  if (!good) ++mismatches;
}

// What the sources may rely on without a run.
static_assert(swizzle_128b(0) == 0 && swizzle_128b(128) == (128 | 16) && swizzle_128b(7 * 128) == (7 * 128 | 7 * 16), "");
static_assert(swizzle_128b(swizzle_128b(0x1ABC0)) == 0x1ABC0, "the swizzle is its own inverse");
static_assert(k_major_step(4, 128) * 16 == 128 * 128, "four steps of 16 make a panel of 64 columns");
static_assert(mn_major_step(1) * 16 == 16 * 128, "16 rows of 128 bytes");
static_assert(a_fragment_source(3, 2, 1) == 29, "");
static_assert(permuted_key(4) == 2 && permuted_key(6) == 10, "positions 4 to 7 hold tokens 2, 3, 10, 11");

static const int TILE_ROWS[] = {64, 80, 128, 176, 192};
static const int HEAD_DIMS[] = {64, 128, 256};
static const uint32_t BASE = 5 * 1024;  // any multiple of 1024

static void swizzle() {
  for (uint32_t block = 0; block < 4; ++block) {
    std::set<uint32_t> image;
    for (uint32_t i = 0; i < SWIZZLE_PERIOD_BYTES; ++i) {
      const uint32_t address = block * SWIZZLE_PERIOD_BYTES + i;
      const uint32_t row = i / 128, chunk = i / 16 % 8;
      expect(swizzle_128b(address) == block * SWIZZLE_PERIOD_BYTES + row * 128 + (chunk ^ row) * 16 + i % 16);
      image.insert(swizzle_128b(address));
    }
    expect(image.size() == SWIZZLE_PERIOD_BYTES);
  }
  // Eight rows of one 16-byte column (one matrix of stmatrix) touch all 32 banks once.
  for (int column = 0; column < 64; column += 8) {
    std::set<uint32_t> chunks;
    for (int row = 0; row < 8; ++row) chunks.insert(tile_offset(Dtype::bf16, 64, row, column) % 128 / 16);
    expect(chunks.size() == 8);
  }
}

static void tiles() {
  for (Dtype dtype : {Dtype::fp16, Dtype::e4m3}) {
    for (int rows : TILE_ROWS) {
      for (int dim : HEAD_DIMS) {
        if (dim % panel_columns(dtype) != 0) continue;
        std::set<uint32_t> offsets;
        for (int row = 0; row < rows; ++row) {
          for (int column = 0; column < dim; ++column) offsets.insert(tile_offset(dtype, rows, row, column));
        }
        expect(int(offsets.size()) == rows * dim);  // no two elements share a place
        expect(int(*offsets.rbegin()) == (rows * dim - 1) * element_bytes(dtype));  // and none is left out
      }
    }
  }
}

// wgmma reads, through the descriptors of the kernels, the elements that TMA wrote. `extra` is a planted error in the
// step, in descriptor units.
static void k_major(uint64_t extra) {
  for (Dtype dtype : {Dtype::bf16, Dtype::e4m3}) {
    const int step_k = 32 / element_bytes(dtype);
    for (int rows : TILE_ROWS) {
      for (int dim : HEAD_DIMS) {
        if (dim % panel_columns(dtype) != 0) continue;
        for (int first_row = 0; first_row < rows; first_row += 8) {  // warpgroups start within a tile
          const uint64_t descriptor = k_major_descriptor(BASE + panel_bytes(first_row));
          for (int step = 0; step < dim / step_k; ++step) {
            const uint64_t at = descriptor + k_major_step(step, rows) + (step ? extra : 0);
            for (int row = first_row; row < rows; row += 3) {
              for (int k = 0; k < step_k; ++k) {
                expect(descriptor_address(at, dtype, false, row - first_row, k) ==
                       BASE + tile_offset(dtype, rows, row, step * step_k + k));
              }
            }
          }
        }
      }
    }
  }
}

static void mn_major(uint64_t extra) {
  for (int rows : TILE_ROWS) {
    for (int dim : HEAD_DIMS) {
      const uint64_t descriptor = mn_major_descriptor(BASE, rows);
      for (int step = 0; step < rows / 16; ++step) {
        for (int n = 0; n < dim; ++n) {
          for (int k = 0; k < 16; ++k) {
            expect(descriptor_address(descriptor + mn_major_step(step) + (step ? extra : 0), Dtype::fp16, true, n, k) ==
                   BASE + tile_offset(Dtype::fp16, rows, step * 16 + k, n));
          }
        }
      }
    }
  }
}

// The fields by their bit positions in the PTX ISA's table, at the largest addresses that occur.
static void descriptor_fields() {
  for (uint32_t address : {0u, 1024u, 231424u}) {
    for (int rows : TILE_ROWS) {
      const uint64_t descriptor = mn_major_descriptor(address, rows);
      expect((descriptor & 0x3FFF) * 16 == address);
      expect((descriptor >> 16 & 0x3FFF) * 16 == uint64_t(rows) * 128);
      expect((descriptor >> 32 & 0x3FFF) * 16 == 1024);
      expect((descriptor >> 49 & 7) == 0);
      expect(descriptor >> 62 == 1);
    }
    expect((k_major_descriptor(address) & 0x3FFF) * 16 == address);
    expect((k_major_descriptor(address) >> 32 & 0x3FFF) * 16 == 1024);
    expect(k_major_descriptor(address) >> 62 == 1);
  }
}

// PTX ISA, figures of the wgmma D and A fragments: register d[4j + 2i + e] of a thread is row 16 warp + 8i + lane / 4,
// column 8j + 2 (lane % 4) + e; a[2j + i], half e, the same with j in {0, 1}.
static void fragments() {
  std::set<std::pair<int, int>> accumulator, operand;
  for (int thread = 0; thread < 128; ++thread) {
    const int warp = thread / 32, lane = thread % 32;
    for (int j = 0; j < 32; ++j) {
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < 2; ++e) {
          const int row = 16 * warp + 8 * i + lane / 4, column = 8 * j + 2 * (lane % 4) + e;
          expect(accumulator_row(thread, 4 * j + 2 * i + e) == row);
          expect(accumulator_column(thread, 4 * j + 2 * i + e) == column);
          accumulator.insert({row, column});
          if (j >= 2) continue;
          expect(a_fragment_row(thread, 2 * j + i) == row);
          expect(a_fragment_k(thread, 2 * j + i, e) == column);
          operand.insert({row, column});
        }
      }
    }
    // Packed accumulators are the next product's A operand without an exchange.
    for (int step = 0; step < 11; ++step) {
      for (int index = 0; index < 4; ++index) {
        for (int e = 0; e < 2; ++e) {
          const int source = a_fragment_source(step, index, e);
          expect(accumulator_row(thread, source) == a_fragment_row(thread, index));
          expect(accumulator_column(thread, source) == 16 * step + a_fragment_k(thread, index, e));
        }
      }
    }
  }
  expect(accumulator.size() == 64 * 256);
  expect(operand.size() == 64 * 16);
}

// The same for 8-bit types, whose A registers hold four bytes each: 64 x 32 operands, in the order of the ISA's figure
// "wgmma A, 8-bit". The weights come from the thread's own accumulators if k stands for the permuted key.
static void fragments_8bit() {
  std::set<std::pair<int, int>> operand;
  for (int thread = 0; thread < 128; ++thread) {
    std::set<int> sources;
    for (int step = 0; step < 8; ++step) {
      for (int index = 0; index < 4; ++index) {
        for (int e = 0; e < 4; ++e) {
          const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * (index % 2);
          const int k = 16 * (index / 2) + 4 * (thread % 4) + e;
          expect(a_fragment_row(thread, index) == row && a_fragment_k_8bit(thread, index, e) == k);
          if (step == 0) operand.insert({row, k});
          const int source = a_fragment_source_8bit(step, index, e);
          const int group = k / PERMUTED_KEYS * PERMUTED_KEYS;
          const int key = group + permuted_key(k % PERMUTED_KEYS);
          expect(accumulator_row(thread, source) == row);
          expect(accumulator_column(thread, source) == 32 * step + key);
          sources.insert(source);
        }
      }
    }
    expect(sources.size() == 8 * 16);
  }
  expect(operand.size() == 64 * 32);
}

// output.cuh, stage_output: matrix r of the stmatrix for registers i to i + 7 holds registers i + 2r, i + 2r + 1, and
// lanes 8r to 8r + 7 give the places of its rows: row lane % 16, column 2i + 8 (lane / 16).
static void stmatrix() {
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 128; i += 8) {
      for (int r = 0; r < 4; ++r) {
        const int address_lane = 8 * r + lane / 4;  // gives the row of matrix r that this lane's register belongs to
        expect(accumulator_row(lane, i + 2 * r) == address_lane % 16);
        expect(accumulator_column(lane, i + 2 * r) == 2 * i + address_lane / 16 * 8 + lane % 4 * 2);
      }
    }
  }
}

static bool sees(bool causal, int row, int key, int seqlen_q, int seqlen_k) {
  return key < seqlen_k && (!causal || row >= seqlen_q || key <= row + seqlen_k - seqlen_q);
}

template <bool Causal>
static void masks_of(int seqlen_q, int seqlen_k, int first_row, int rows, int tile_n) {
  const int tiles = key_tiles<Causal>(first_row, rows, tile_n, seqlen_q, seqlen_k);
  const int unmasked = unmasked_key_tiles<Causal>(first_row, tile_n, seqlen_q, seqlen_k);
  int last_seen = 0;
  for (int row = first_row; row < first_row + rows; ++row) {
    int seen = 0;
    for (int key = 0; key < seqlen_k + tile_n; ++key) {
      const bool visible = sees(Causal, row, key, seqlen_q, seqlen_k);
      expect(visible == (key < visible_keys<Causal>(row, seqlen_q, seqlen_k)));
      if (visible) seen = key + 1;
      if (key < unmasked * tile_n) expect(visible);
    }
    last_seen = std::max(last_seen, seen);
  }
  expect(tiles >= 1 && tiles * tile_n >= last_seen);
  expect(tiles == 1 || (tiles - 1) * tile_n < last_seen);
}

// What mask_scores leaves of a tile of scores, against the mask's definition for each key.
template <bool Causal, int TileN>
static void masked_scores_of(int seqlen_q, int seqlen_k, int first_row) {
  for (int thread = 0; thread < WARPGROUP_THREADS; ++thread) {
    const int row = first_row + accumulator_row(thread, 0);
    const VisibleKeys visible = visible_to_thread<Causal>(thread, row, seqlen_q, seqlen_k);
    for (int first_key = 0; first_key < seqlen_k + TileN; first_key += TileN) {
      float scores[TileN / 2];
      for (float& score : scores) score = 1.0f;
      mask_scores<Causal>(scores, visible, first_key);
      for (int i = 0; i < TileN / 2; ++i) {
        const int query = first_row + accumulator_row(thread, i);
        const int key = first_key + accumulator_column(thread, i);
        expect(scores[i] == (sees(Causal, query, key, seqlen_q, seqlen_k) ? 1.0f : NEGATIVE_INFINITY));
      }
    }
  }
}

static void masked_scores() {
  for (const auto& [seqlen_q, seqlen_k] : {std::pair{1, 1}, {200, 77}, {77, 200}, {128, 128}, {64, 1}, {1, 300}}) {
    for (int first_row : {0, 64, 128}) {
      masked_scores_of<true, 80>(seqlen_q, seqlen_k, first_row);
      masked_scores_of<true, 128>(seqlen_q, seqlen_k, first_row);
      masked_scores_of<true, 192>(seqlen_q, seqlen_k, first_row);
      masked_scores_of<false, 64>(seqlen_q, seqlen_k, first_row);
      masked_scores_of<false, 176>(seqlen_q, seqlen_k, first_row);
      masked_scores_of<false, 224>(seqlen_q, seqlen_k, first_row);
    }
  }
}

// polynomial_exp2 against 2^x: the relative error that its header states, exact powers of two, 0 far below.
template <int Degree>
static void polynomial(float most_relative_error) {
  for (float x = -125.5f; x < 127.0f; x += 0x1p-9f) {
    const double exact = std::exp2(double(x));
    expect(std::fabs(polynomial_exp2<Degree>(x) - exact) <= most_relative_error * exact);
  }
  for (int n = -126; n < 128; ++n) expect(polynomial_exp2<Degree>(float(n)) == std::ldexp(1.0f, n));
  for (float x : {-127.0f, -128.0f, -1e30f, NEGATIVE_INFINITY}) expect(polynomial_exp2<Degree>(x) == 0.0f);
  for (float x = -127.0f; x < -125.5f; x += 0x1p-9f) expect(std::fabs(polynomial_exp2<Degree>(x)) <= 0x1p-125f);
}

static void masks() {
  for (auto [seqlen_q, seqlen_k] : {std::pair{1, 1}, {64, 64}, {65, 129}, {200, 70}, {70, 200}, {129, 1}, {1, 130}}) {
    for (int rows : {64, 128, 192}) {
      for (int tile_n : {80, 128, 176}) {
        for (int first_row = 0; first_row < seqlen_q; first_row += rows) {
          masks_of<false>(seqlen_q, seqlen_k, first_row, rows, tile_n);
          masks_of<true>(seqlen_q, seqlen_k, first_row, rows, tile_n);
        }
      }
    }
  }
}

// Every tile of every head exactly once; within a section causal tiles do not grow longer.
template <bool Causal>
static void order_of(int batch, int heads, int seqlen, int heads_per_section) {
  ForwardParams params{};
  params.batch = batch;
  params.num_heads = heads;
  params.seqlen_q = params.seqlen_k = seqlen;
  params.heads_per_section = heads_per_section;
  const int count = tile_count<128>(params);
  const int row_tiles = (seqlen + 127) / 128;
  std::set<std::tuple<int, int, int>> seen;
  int section = -1, longest = 0;
  for (int number = 0; number < count; ++number) {
    const Tile tile = tile_at<Causal, 128, 128>(params, number);
    expect(tile.first_row % 128 == 0 && tile.first_row < seqlen && tile.head < heads && tile.batch < batch);
    seen.insert({tile.first_row, tile.head, tile.batch});
    const int this_section = (tile.batch * heads + tile.head) / heads_per_section;
    if (this_section != section) longest = row_tiles;
    expect(this_section >= section);
    section = this_section;
    if (Causal) expect(tile.key_tiles <= longest);
    if (Causal) longest = tile.key_tiles;
  }
  expect(int(seen.size()) == count && count == batch * heads * row_tiles);
}

static void orders() {
  for (int heads_per_section : {1, 2, 3, 5, 6, 12}) {
    for (int seqlen : {1, 128, 700}) {
      order_of<false>(2, 6, seqlen, heads_per_section);
      order_of<true>(2, 6, seqlen, heads_per_section);
    }
  }
}

int main(int argc, char** argv) {
  const char* section = argc > 1 ? argv[1] : "";
  const auto is = [&](const char* name) { return std::strcmp(section, name) == 0; };
  if (is("swizzle")) swizzle();
  if (is("tiles")) tiles();
  if (is("k_major")) k_major(0);
  if (is("k_major_planted")) k_major(1);
  if (is("mn_major")) mn_major(0);
  if (is("mn_major_planted")) mn_major(8);
  if (is("descriptor_fields")) descriptor_fields();
  if (is("fragments")) fragments();
  if (is("fragments_8bit")) fragments_8bit();
  if (is("stmatrix")) stmatrix();
  if (is("polynomials")) polynomial<3>(1.1e-4f), polynomial<4>(3.0e-6f);
  if (is("masks")) masks();
  if (is("masked_scores")) masked_scores();
  if (is("orders")) orders();
  std::printf("%ld %ld\n", comparisons, mismatches);
  return 0;
}
