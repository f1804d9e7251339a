// Quantization of q, k and v to e4m3, with the Hadamard rotation of q and k: what runs before the e4m3 attention
// kernels.
//
// A CTA takes 128 tokens of one head into registers (64 fp32 values a thread), rotates them, finds the largest
// magnitude, and writes e4m3 bytes; v leaves transposed, its tokens in the order in which the attention kernel's
// weights lie in registers, so that no transpose is left there. Then the next 128 tokens, which TMA has brought
// meanwhile. Schemes and rounding: attnbench/reference/quantize.py, whose bits it reproduces: the same fp32
// operations in the same order, each rounded once.
//
// Algorithm: block quantization and incoherent processing of FlashAttention-3 (Shah et al. 2024, section 3.3); the
// rotation is in hadamard.cuh.
//
// Passes over memory: where a group lies within a tile of 128 tokens (block_size up to 128) or nothing is scaled, one,
// 3 bytes a value. Else two, 5 bytes a value: the first raises a word per group in the workspace to the bits of the
// largest magnitude (whole numbers: no order matters), the second goes through the tiles backwards, so that it begins
// with what the first has left in L2.
//
//   head_dim   threads   CTAs together   a thread's values    stages   shared memory
//         64      128         4          8 rows x 1 chunk        2         41 KiB
//        128      256         2          4 rows x 2 chunks       2         81 KiB
//        256      512         1          2 rows x 4 chunks       2        161 KiB
//
// What should make it as fast as a copy (arithmetic, not measured):
// - Bytes in flight: a multiprocessor has 512 threads and, in their two stages, 128 KiB under way or waiting; the stage
//   read last is refilled as soon as its bytes are in registers. To keep 4.8 TB/s busy over a latency of 0.8 us, each
//   of 132 multiprocessors needs 29 KiB.
// - q and k are stored 8 bytes a lane, 64 consecutive bytes a row (whole sectors of 32 bytes); v 16 bytes a lane, 128
//   consecutive bytes a row.
// - 4.8 TB/s at 1.7 GHz are 21 bytes, or 7 values, a clock and multiprocessor: 18 instruction slots a value, and 25 at
//   the 72 % of that which are 80 % of a good copy. The rotated path takes about 18 at head_dim 128: unpacking 1.5,
//   additions 7, shuffles 3, scaling 2, maximum 1.2, conversion 0.5, some 2.5 for addresses, copies and barriers. Its 3
//   shuffles a value are 21 a clock at full bandwidth, where the multiprocessor does 32.
// - Shared memory without bank conflicts. Loads from a stage: 8 lanes read the 8 chunks of one row of a panel, which
//   the 128-byte swizzle keeps on all 32 banks. v^T: a column has 32 words (128 bytes), one per 4 tokens; 16-byte chunk
//   q of column c lies at place q ^ (c / 8 % 8). A warp's store writes one word in each of 8 columns that are 8 apart,
//   and 4 words t of one chunk: banks 4 (q ^ l) + t, l = 0 to 7, t = 0 to 3, all different. A load reads, for 8 lanes
//   at a time, the 8 chunks of one column: all different too.
#include <attnbench/device.cuh>
#include <attnbench/quantize/hadamard.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/convert.cuh>
#include <attnbench/ptx/math.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/warp.cuh>
#include <attnbench/quantize/quantize.h>

namespace attnbench {
namespace {

constexpr int TILE_TOKENS = ATTNBENCH_QUANTIZE_TILE;
constexpr int GROUP = ATTNBENCH_VALUE_GROUP;
constexpr int RESIDENT_THREADS = 512;  // of a multiprocessor, with 128 registers each
constexpr float E4M3_MAX = 448.0f;
constexpr float SMALLEST_DESCALE = 0x1p-126f;  // attnbench/reference/quantize.py

template <Dtype Type, int HeadDim>
struct Config {
  static constexpr Dtype dtype = Type;
  static constexpr int head_dim = HeadDim;
  static constexpr int panels = HeadDim / PANEL;
  static constexpr int warps = TILE_TOKENS * HeadDim / (WARP_THREADS * CHUNKS * CHUNK);
  static constexpr int threads = WARP_THREADS * warps;
  static constexpr int resident_ctas = RESIDENT_THREADS / threads;
  static constexpr int stages = 2;
  static constexpr uint32_t tile_bytes = panels * TILE_TOKENS * PANEL_ROW_BYTES;
};

// Of the first pass. warp_amax: the largest magnitude of each warp.
template <class C>
struct AmaxStorage {
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t input[C::stages][C::tile_bytes];
  uint64_t full[C::stages];
  float warp_amax[C::warps];
};

// Of the kernel that writes: also v^T, a row of TILE_TOKENS bytes for each column.
template <class C>
struct SharedStorage {
  AmaxStorage<C> common;
  alignas(SWIZZLE_PERIOD_BYTES) uint8_t transposed[C::head_dim * TILE_TOKENS];
};

// The thread's number, in a form of which ptxas cannot know that it stays the same from tile to tile.
// NOTE: what it knows to stay, such as dozens of shared-memory addresses, it computes before the loop and then spills.
ATTNBENCH_DEVICE int thread_in_loop(int tile_number) {
  return thread_index() + int(uint32_t(tile_number) >> 30);  // there are fewer than 2^30 tiles (quantize_validate.h)
}

// ---- who holds what -------------------------------------------------------------------------------------------------

struct Tile {
  int operand;
  int batch;
  int head;
  int first_token;
};

ATTNBENCH_DEVICE int tile_count(const QuantizeParams& params) {
  return params.operand[QUERY].tiles + params.operand[KEY].tiles + params.operand[VALUE].tiles;
}

// The tile with this number: q, k, v, heads running fastest, since their rows are neighbours in memory.
ATTNBENCH_DEVICE Tile tile_at(const QuantizeParams& params, int number) {
  Tile tile;
  tile.operand = QUERY;
  while (tile.operand < VALUE && number >= params.operand[tile.operand].tiles) {
    number -= params.operand[tile.operand].tiles;
    ++tile.operand;
  }
  const QuantizeOperand& operand = params.operand[tile.operand];
  const int row = operand.by_heads.quotient(number);
  tile.head = number - row * operand.heads;
  tile.batch = operand.by_blocks.quotient(row);
  tile.first_token = (row - tile.batch * operand.by_blocks.divisor) * TILE_TOKENS;
  return tile;
}

// q and k: the 8 lanes of a row hold all of it, in `panels` chunks each.
template <class C>
struct RowOwner {
  static constexpr int rows = CHUNKS / C::panels;  // of a lane
  ATTNBENCH_DEVICE_MEMBER static int token(int thread, int chunk) {
    return (thread / WARP_THREADS * rows + chunk / C::panels) * (WARP_THREADS / ROW_LANES) +
           thread % WARP_THREADS / ROW_LANES;
  }
  ATTNBENCH_DEVICE_MEMBER static int column(int thread, int chunk) {
    return chunk % C::panels * PANEL + thread % ROW_LANES * CHUNK;
  }
};

// v: a thread holds 8 columns of two times the 4 tokens that stand next to each other after the permutation.
template <class C>
struct QuadOwner {
  ATTNBENCH_DEVICE_MEMBER static int group(int thread, int chunk) {
    return thread / WARP_THREADS / C::panels * 2 + chunk / 4;
  }
  ATTNBENCH_DEVICE_MEMBER static int quad(int thread) { return thread % WARP_THREADS / ROW_LANES; }
  ATTNBENCH_DEVICE_MEMBER static int token(int thread, int chunk) {
    return group(thread, chunk) * GROUP + chunk / 2 % 2 * 8 + quad(thread) * 2 + chunk % 2;
  }
  ATTNBENCH_DEVICE_MEMBER static int column(int thread, int chunk) {
    return thread / WARP_THREADS % C::panels * PANEL + thread % ROW_LANES * CHUNK;
  }
};

// ---- loading --------------------------------------------------------------------------------------------------------

// Tiles of this CTA on their way into shared memory: every grid_size-th one, in the order of the grid or backwards.
template <class C>
struct Loader {
  const ptx::TensorMap &q, &k, &v;
  const QuantizeParams& params;
  uint32_t base;  // of AmaxStorage
  bool backwards;
  RingPosition<C::stages> at;

  ATTNBENCH_DEVICE_MEMBER uint32_t input() const { return base + uint32_t(at.stage) * C::tile_bytes; }
  ATTNBENCH_DEVICE_MEMBER uint32_t full() const { return base + uint32_t(offsetof(AmaxStorage<C>, full)); }

  ATTNBENCH_DEVICE_MEMBER Tile tile(int number) const {
    return tile_at(params, backwards ? tile_count(params) - 1 - number : number);
  }

  // Starts the copy of a tile into the current stage; one thread calls it. Past the end: nothing.
  ATTNBENCH_DEVICE_MEMBER void start(int number) {
    if (number >= tile_count(params)) return;
    const Tile next = tile(number);
    const ptx::TensorMap* map = next.operand == QUERY ? &q : (next.operand == KEY ? &k : &v);
    const uint32_t barrier = full() + uint32_t(at.stage) * MBARRIER_BYTES;
    ptx::mbarrier_arrive_expect_tx(barrier, C::tile_bytes);
    ATTNBENCH_UNROLL
    for (int panel = 0; panel < C::panels; ++panel) {
      ptx::tma_load_4d(input() + uint32_t(panel) * panel_bytes(TILE_TOKENS), map, barrier, panel * PANEL,
                       next.first_token, next.head, next.batch, ptx::EVICT_NORMAL);
    }
  }

  ATTNBENCH_DEVICE_MEMBER void start_first() {
    if (thread_index() == 0) {
      init_barriers(full(), C::stages, 1, "full");
      ptx::fence_mbarrier_init();
    }
    ptx::cta_sync();
    ATTNBENCH_UNROLL
    for (int ahead = 0; ahead < C::stages; ++ahead) {
      if (thread_index() == 0) start(block_index() + ahead * grid_size());
      at.advance();
    }
    at = RingPosition<C::stages>();
  }

  // Fills the current stage again, once every warp has read it, and goes on to the next.
  ATTNBENCH_DEVICE_MEMBER void refill(int number) {
    ptx::cta_sync();
    if (thread_index() == 0) start(number + C::stages * grid_size());
    at.advance();
  }
};

// The thread's part of a tile.
template <class C, class Owner>
ATTNBENCH_DEVICE void read_input(uint32_t (&words)[CHUNKS][4], uint32_t input, int thread) {
  ATTNBENCH_UNROLL
  for (int i = 0; i < CHUNKS; ++i) {
    const int token = Owner::token(thread, i), column = Owner::column(thread, i);
    ptx::load_shared_b128(words[i], input + tile_offset(C::dtype, TILE_TOKENS, token, column));
  }
}

// q and k as rows; v with the tokens that will stand together, where `transposes`.
template <class C>
ATTNBENCH_DEVICE void take_values(float (&x)[CHUNKS][CHUNK], Loader<C>& loader, int operand, bool transposes,
                                  int number) {
  uint32_t words[CHUNKS][4];
  const int thread = thread_in_loop(number);
  wait_full(loader.full(), loader.at);
  if (transposes && operand == VALUE) {
    read_input<C, QuadOwner<C>>(words, loader.input(), thread);
  } else {
    read_input<C, RowOwner<C>>(words, loader.input(), thread);
  }
  loader.refill(number);
  const bool rotated = loader.params.hadamard && operand != VALUE;
  if (rotated) apply_signs<C::panels>(words, loader.params.signs, thread);
  unpack<C::dtype>(x, words);
  if (rotated) rotate<C::panels>(x);
}

// ---- scaling --------------------------------------------------------------------------------------------------------

ATTNBENCH_DEVICE uint32_t bits_of_float(float x) {
  union {
    float value;
    uint32_t bits;
  } both = {x};
  return both.bits;
}

ATTNBENCH_DEVICE float float_of_bits(uint32_t bits) {
  union {
    uint32_t bits;
    float value;
  } both = {bits};
  return both.value;
}

// Largest magnitude in this thread's group, NaN passed over. The first group_warps warps share a group, then the next.
ATTNBENCH_DEVICE float group_amax(const float (&x)[CHUNKS][CHUNK], uint32_t warp_amax, int group_warps) {
  float largest = 0.0f;
  ATTNBENCH_UNROLL
  for (int i = 0; i < CHUNKS; ++i) {
    float of_chunk = 0.0f;  // a chain of its own: one through all values would wait on its own latency
    ATTNBENCH_UNROLL
    for (int j = 0; j < CHUNK; ++j) of_chunk = ptx::maximum(of_chunk, ptx::magnitude(x[i][j]));
    largest = ptx::maximum(largest, of_chunk);
  }
  ATTNBENCH_UNROLL
  for (int mask = 1; mask < WARP_THREADS; mask *= 2) largest = ptx::maximum(largest, ptx::shuffle_xor(largest, mask));
  const int warp = thread_index() / WARP_THREADS;
  if (thread_index() % WARP_THREADS == 0) ptx::store_shared_b32(warp_amax + 4 * warp, bits_of_float(largest));
  ptx::cta_sync();
  const int first = warp & -group_warps;
  ATTNBENCH_NO_UNROLL
  for (int other = first; other < first + group_warps; ++other) {
    largest = ptx::maximum(largest, float_of_bits(ptx::load_shared_b32(warp_amax + 4 * other)));
  }
  return largest;
}

ATTNBENCH_DEVICE int64_t group_index(const Groups& groups, const Tile& tile, int token) {
  return tile.batch * groups.batch_stride + groups.rows.quotient(token) * groups.block_stride +
         tile.head * groups.head_stride;
}

// Whether this thread writes the descale of the group that holds `token`, the first one of its warps: one thread of all
// that share the group.
ATTNBENCH_DEVICE bool writes_descale(const QuantizeParams& params, const Tile& tile, int token) {
  const QuantizeOperand& operand = params.operand[tile.operand];
  const Groups& groups = operand.groups;
  const bool first = (tile.batch == 0 || groups.batch_stride != 0) && (tile.head == 0 || groups.head_stride != 0);
  return first && (thread_index() & (params.group_warps * WARP_THREADS - 1)) == 0 && token < operand.seqlen &&
         token == groups.rows.quotient(token) * groups.rows.divisor;
}

// What the values of this thread are multiplied by. Writes the descale once per group.
template <class C>
ATTNBENCH_DEVICE float scale_factor(const float (&x)[CHUNKS][CHUNK], const QuantizeParams& params, const Tile& tile,
                                    uint32_t warp_amax) {
  const QuantizeOperand& operand = params.operand[tile.operand];
  float amax = 0.0f;
  if (params.amax_from == AmaxFrom::tile) amax = group_amax(x, warp_amax, params.group_warps);
  const int first_warp = thread_index() / WARP_THREADS & -params.group_warps;
  const int token = tile.first_token + first_warp * (TILE_TOKENS / C::warps);
  const int64_t group = group_index(operand.groups, tile, token);
  if (params.amax_from == AmaxFrom::workspace) {
    amax = ptx::load_global_f32(reinterpret_cast<const float*>(operand.amax) + group);
  }
  float descale = ptx::divide(amax, E4M3_MAX);
  if (descale < SMALLEST_DESCALE) descale = 1.0f;
  if (writes_descale(params, tile, token)) ptx::store_global_f32(operand.descale + group, descale);
  return ptx::divide(1.0f, descale);
}

// ---- writing --------------------------------------------------------------------------------------------------------

template <class C>
ATTNBENCH_DEVICE void store_rows(const float (&x)[CHUNKS][CHUNK], float factor, const QuantizeOperand& operand,
                                 const Tile& tile, int thread) {
  using Owner = RowOwner<C>;
  ATTNBENCH_UNROLL
  for (int i = 0; i < CHUNKS; ++i) {
    const int token = tile.first_token + Owner::token(thread, i);
    if (token >= operand.seqlen) continue;
    const int64_t row = (int64_t(tile.batch) * operand.seqlen + token) * operand.heads + tile.head;
    const float(&v)[CHUNK] = x[i];
    ptx::store_global_b64(operand.out + row * C::head_dim + Owner::column(thread, i),
                          ptx::pack_e4m3x4(v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor),
                          ptx::pack_e4m3x4(v[4] * factor, v[5] * factor, v[6] * factor, v[7] * factor));
  }
}

// Shared address of 16 tokens of a column of v.
ATTNBENCH_DEVICE uint32_t chunk_address(uint32_t transposed, int column, int group) {
  return transposed + uint32_t(column * TILE_TOKENS + (group ^ column / CHUNK % 8) * GROUP);
}

template <class C>
ATTNBENCH_DEVICE void transpose(const float (&x)[CHUNKS][CHUNK], float factor, uint32_t transposed, int thread) {
  using Owner = QuadOwner<C>;
  ATTNBENCH_UNROLL
  for (int i = 0; i < CHUNKS; i += 4) {
    ATTNBENCH_UNROLL
    for (int j = 0; j < CHUNK; ++j) {
      const uint32_t word =
          ptx::pack_e4m3x4(x[i][j] * factor, x[i + 1][j] * factor, x[i + 2][j] * factor, x[i + 3][j] * factor);
      const uint32_t chunk = chunk_address(transposed, Owner::column(thread, i) + j, Owner::group(thread, i));
      ptx::store_shared_b32(chunk + 4 * Owner::quad(thread), word);
    }
  }
}

template <class C>
ATTNBENCH_DEVICE void store_transposed(uint32_t transposed, const QuantizeOperand& operand, const Tile& tile,
                                       int thread) {
  constexpr int groups = TILE_TOKENS / GROUP;
  const int64_t padded = int64_t((operand.seqlen + GROUP - 1) / GROUP) * GROUP;
  const int group = thread % groups;
  const int token = tile.first_token + group * GROUP;
  uint8_t* out = operand.out + (int64_t(tile.batch) * operand.heads + tile.head) * C::head_dim * padded + token;
  ATTNBENCH_UNROLL
  for (int first = 0; first < C::head_dim; first += C::threads / groups) {
    const int column = first + thread / groups;
    uint32_t words[4];
    ptx::load_shared_b128(words, chunk_address(transposed, column, group));
    if (token < operand.seqlen) ptx::store_global_b128(out + column * padded, words);
  }
}

// ---- kernels --------------------------------------------------------------------------------------------------------

template <class C>
ATTNBENCH_DEVICE void find_amax(Loader<C> loader) {
  const QuantizeParams& params = loader.params;
  const uint32_t warp_amax = loader.base + uint32_t(offsetof(AmaxStorage<C>, warp_amax));
  loader.start_first();
  ATTNBENCH_NO_UNROLL
  for (int number = block_index(); number < tile_count(params); number += grid_size()) {
    const Tile tile = loader.tile(number);
    const QuantizeOperand& operand = params.operand[tile.operand];
    float x[CHUNKS][CHUNK];
    take_values(x, loader, tile.operand, false, number);
    const float amax = group_amax(x, warp_amax, C::warps);
    if (thread_index() == 0) {
      const int64_t group = group_index(operand.groups, tile, tile.first_token);
      ptx::atomic_maximum_global(operand.amax + group, bits_of_float(amax));
    }
  }
}

template <class C>
ATTNBENCH_DEVICE void quantize(Loader<C> loader) {
  const QuantizeParams& params = loader.params;
  const uint32_t warp_amax = loader.base + uint32_t(offsetof(AmaxStorage<C>, warp_amax));
  const uint32_t transposed = loader.base + uint32_t(offsetof(SharedStorage<C>, transposed));
  loader.start_first();
  ATTNBENCH_NO_UNROLL
  for (int number = block_index(); number < tile_count(params); number += grid_size()) {
    const Tile tile = loader.tile(number);
    const QuantizeOperand& operand = params.operand[tile.operand];
    float x[CHUNKS][CHUNK];
    take_values(x, loader, tile.operand, true, number);
    const float factor = scale_factor<C>(x, params, tile, warp_amax);
    if (tile.operand == VALUE) {
      transpose<C>(x, factor, transposed, thread_in_loop(number));
      ptx::cta_sync();
      store_transposed<C>(transposed, operand, tile, thread_in_loop(number));
    } else {
      store_rows<C>(x, factor, operand, tile, thread_in_loop(number));
    }
  }
}

using QuantizeKernel = void(ptx::TensorMap, ptx::TensorMap, ptx::TensorMap, QuantizeParams);

template <class C>
int32_t launch_config(QuantizeKernel* amax_kernel, QuantizeKernel* kernel, const AttnbenchQuantizeArgs& args) {
  const int amax_bytes = int(sizeof(AmaxStorage<C>)), bytes = int(sizeof(SharedStorage<C>));
  if (int32_t status = allow_shared_memory(amax_kernel, amax_bytes)) return status;
  if (int32_t status = allow_shared_memory(kernel, bytes)) return status;
  QuantizeMaps maps;
  if (int32_t status = encode_quantize_maps(args, &maps)) return status;
  const ptx::TensorMap &q = maps.operand[QUERY], &k = maps.operand[KEY], &v = maps.operand[VALUE];
  const QuantizeParams params = quantize_params(args, C::warps);
  int multiprocessors = 0;
  if (int32_t status = multiprocessor_count(&multiprocessors)) return status;
  int grid = 0;
  for (const QuantizeOperand& operand : params.operand) grid += operand.tiles;
  if (grid > multiprocessors * C::resident_ctas) grid = multiprocessors * C::resident_ctas;
  if (params.amax_from == AmaxFrom::workspace) {
    if (int32_t status = zero_async(args.workspace, quantize_workspace_bytes(args), args.stream)) return status;
    if (int32_t status = launch(amax_kernel, grid, C::threads, amax_bytes, args.stream, q, k, v, params)) return status;
  }
  return launch(kernel, grid, C::threads, bytes, args.stream, q, k, v, params);
}

}  // namespace
}  // namespace attnbench

#define VARIANTS(V) \
  V(fp16, 64)       \
  V(fp16, 128)      \
  V(fp16, 256)      \
  V(bf16, 64)       \
  V(bf16, 128)      \
  V(bf16, 256)

#define CONFIG(type, dim) attnbench::Config<attnbench::Dtype::type, dim>
#define KERNEL(name, body, backwards, type, dim)                                                                  \
  extern "C" ATTNBENCH_KERNEL_RESIDENT((CONFIG(type, dim)::threads), (CONFIG(type, dim)::resident_ctas))          \
      name##_##type##_d##dim(ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap q,                           \
                             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap k,                           \
                             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap v,                           \
                             ATTNBENCH_GRID_CONSTANT const attnbench::QuantizeParams params) {                    \
    attnbench::body<CONFIG(type, dim)>({q, k, v, params, attnbench::shared_base(), backwards, {}});          \
  }
#define KERNELS(type, dim)                                                                                        \
  KERNEL(quantize_amax, find_amax, false, type, dim)                                                              \
  KERNEL(quantize, quantize, params.amax_from == attnbench::AmaxFrom::workspace, type, dim)
#define ROW(type, dim)                                                                                           \
  {"quantize_" #type "_d" #dim, "quantize_amax_" #type "_d" #dim, int32_t(CONFIG(type, dim)::dtype), dim,        \
   CONFIG(type, dim)::threads, int32_t(sizeof(attnbench::SharedStorage<CONFIG(type, dim)>)),                    \
   int32_t(sizeof(attnbench::AmaxStorage<CONFIG(type, dim)>))},
#define LAUNCH(type, dim)                                                                                        \
  if (args->dtype == int32_t(CONFIG(type, dim)::dtype) && args->head_dim == dim) {                               \
    return attnbench::launch_config<CONFIG(type, dim)>(quantize_amax_##type##_d##dim,                            \
                                                       quantize_##type##_d##dim, *args);                         \
  }

VARIANTS(KERNELS)

static const AttnbenchQuantizeVariant QUANTIZE_TABLE[] = {VARIANTS(ROW)};
static constexpr int32_t QUANTIZE_COUNT = sizeof(QUANTIZE_TABLE) / sizeof(QUANTIZE_TABLE[0]);

ATTNBENCH_EXPORT uint32_t attnbench_quantize_abi_version(void) { return ATTNBENCH_QUANTIZE_ABI_VERSION; }

ATTNBENCH_EXPORT int32_t attnbench_quantize_variant_count(void) { return QUANTIZE_COUNT; }

ATTNBENCH_EXPORT const AttnbenchQuantizeVariant* attnbench_quantize_describe(int32_t index) {
  return index >= 0 && index < QUANTIZE_COUNT ? &QUANTIZE_TABLE[index] : nullptr;
}

ATTNBENCH_EXPORT int32_t attnbench_quantize_supports(const AttnbenchQuantizeArgs* args, char* text, size_t bytes) {
  return attnbench::validate_quantize(args, QUANTIZE_TABLE, QUANTIZE_COUNT, attnbench::Reason{text, bytes});
}

ATTNBENCH_EXPORT uint64_t attnbench_quantize_workspace_bytes(const AttnbenchQuantizeArgs* args) {
  const bool good = attnbench_quantize_supports(args, nullptr, 0) == ATTNBENCH_OK;
  return good ? attnbench::quantize_workspace_bytes(*args) : 0;
}

ATTNBENCH_EXPORT int32_t attnbench_quantize_launch(const AttnbenchQuantizeArgs* args) {
  if (int32_t status = attnbench_quantize_supports(args, nullptr, 0)) return status;
  if (int32_t status = attnbench::check_quantize_workspace(*args, attnbench::Reason{})) return status;
  if (int32_t status = attnbench::check_device()) return status;
  VARIANTS(LAUNCH)
  return ATTNBENCH_UNSUPPORTED_VARIANT;
}

ATTNBENCH_EXPORT const char* attnbench_status_string(int32_t status) {
  return status < ATTNBENCH_HOST_ERROR_BASE ? attnbench::status_name(status)
                                            : attnbench::host_error_string(status - ATTNBENCH_HOST_ERROR_BASE);
}
