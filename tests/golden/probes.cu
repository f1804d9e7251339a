// Golden vectors: each probe runs one primitive on given inputs and writes what came out, bit for bit. The same source
// runs on a GPU, where it records what the hardware does, and in the CPU emulation, which must give the same
// (tests/golden). Inputs are chosen on the host, so that products are exact and every element can be told apart.
//
// A probe is one CTA of 128 threads, or a cluster of two. Memory: tile A (64 rows) at 0, tile B (up to 256 rows) next.
#include <attnbench/host.h>
#include <attnbench/layout.cuh>
#include <attnbench/pipeline.cuh>
#include <attnbench/ptx/barrier.cuh>
#include <attnbench/ptx/cluster.cuh>
#include <attnbench/ptx/convert.cuh>
#include <attnbench/ptx/fence.cuh>
#include <attnbench/ptx/math.cuh>
#include <attnbench/ptx/matrix.cuh>
#include <attnbench/ptx/mbarrier.cuh>
#include <attnbench/ptx/memory.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/ptx/warp.cuh>
#include <attnbench/ptx/wgmma.cuh>

namespace attnbench {
namespace {

constexpr int THREADS = 128;
constexpr int A_ROWS = 64;
constexpr int MAX_B_ROWS = 256;
constexpr uint32_t B_OFFSET = A_ROWS * PANEL_ROW_BYTES;
constexpr uint32_t BARRIER_OFFSET = B_OFFSET + MAX_B_ROWS * PANEL_ROW_BYTES;
constexpr int SHARED_BYTES = int(BARRIER_OFFSET) + 64;

struct ProbeArguments {
  ptx::TensorMap a, b;
  const uint32_t* words;  // raw input of the probes without tensor maps
  uint32_t* out;
  int count;
};

// Loads boxes of one barrier's worth into shared memory; every thread returns after they have landed.
ATTNBENCH_DEVICE void load(const ProbeArguments& args, int a_bytes, int b_boxes, int b_box_bytes, int c0, int c1) {
  const uint32_t base = shared_base(), barrier = base + BARRIER_OFFSET;
  if (thread_index() == 0) {
    init_barriers(barrier, 1, 1, "loaded");
    ptx::fence_mbarrier_init();
  }
  ptx::cta_sync();
  if (thread_index() == 0) {
    ptx::mbarrier_arrive_expect_tx(barrier, uint32_t(a_bytes + b_boxes * b_box_bytes));
    if (a_bytes > 0) ptx::tma_load_4d(base, &args.a, barrier, c0, c1, 0, 0, ptx::EVICT_NORMAL);
    for (int i = 0; i < b_boxes; ++i) {
      ptx::tma_load_4d(base + B_OFFSET + uint32_t(i * b_box_bytes), &args.b, barrier, i * 64, 0, 0, 0,
                       ptx::EVICT_NORMAL);
    }
  }
  wait_barrier(barrier, 0);
}

ATTNBENCH_DEVICE void write_image(const ProbeArguments& args) {
  for (uint32_t at = uint32_t(thread_index()); at < B_OFFSET / 4; at += THREADS) {
    args.out[at] = ptx::load_shared_b32(shared_base() + at * 4);
  }
}

// The image of one box in shared memory, partly out of bounds: starts at column -8, row 3 of the tensor.
ATTNBENCH_DEVICE void tma_image(const ProbeArguments& args) {
  load(args, int(B_OFFSET), 0, 0, -8, 3);
  write_image(args);
}

// The image of a box twice as wide as its tensor: rows of 64 one-byte elements, each in a panel row of 128 bytes.
ATTNBENCH_DEVICE void tma_half_panel(const ProbeArguments& args) {
  load(args, int(B_OFFSET), 0, 0, 0, 0);
  write_image(args);
}

// Each of two CTAs loads one of two boxes for both, and notes the image of the two; at the end a remote arrival.
ATTNBENCH_DEVICE void multicast_image(const ProbeArguments& args) {
  const uint32_t base = shared_base(), loaded = base + BARRIER_OFFSET, left = loaded + MBARRIER_BYTES;
  const int rank = ptx::cluster_rank();
  if (thread_index() == 0) {
    init_barriers(loaded, 1, 1, "loaded");
    init_barriers(left, 1, 1, "left");
    ptx::fence_mbarrier_init();
  }
  ptx::warp_sync();
  ptx::cluster_arrive();
  ptx::cluster_wait();
  if (thread_index() == 0) {
    ptx::mbarrier_arrive_expect_tx(loaded, 2 * B_OFFSET);
    ptx::tma_load_multicast_4d(base + uint32_t(rank) * B_OFFSET, &args.a, loaded, 0, rank * A_ROWS, 0, 0, 0b11,
                               ptx::EVICT_NORMAL);
  }
  wait_barrier(loaded, 0);
  for (uint32_t at = uint32_t(thread_index()); at < 2 * B_OFFSET / 4; at += THREADS) {
    args.out[uint32_t(rank) * (2 * B_OFFSET / 4) + at] = ptx::load_shared_b32(base + at * 4);
  }
  if (thread_index() == 0) ptx::mbarrier_arrive_cluster(ptx::map_to_cta(left, 1 - rank));
  wait_barrier(left, 0);
}

// A box stored partly out of bounds from an image written by ordinary stores.
ATTNBENCH_DEVICE void tma_stored(const ProbeArguments& args) {
  for (uint32_t at = uint32_t(thread_index()); at < B_OFFSET / 4; at += THREADS) {
    ptx::store_shared_b32(shared_base() + at * 4, args.words[at]);
  }
  ptx::fence_proxy_async_shared();
  ptx::cta_sync();
  if (thread_index() == 0) {
    ptx::tma_store_4d(&args.b, shared_base(), -8, 3, 0, 0);
    ptx::bulk_commit_group();
    ptx::bulk_wait_group<0>();
  }
}

template <int N>
ATTNBENCH_DEVICE void write_accumulator(const ProbeArguments& args, const float (&d)[N / 2]) {
  ATTNBENCH_UNROLL
  for (int i = 0; i < N / 2; ++i)
    ptx::store_global_f32(reinterpret_cast<float*>(args.out) + thread_index() * (N / 2) + i, d[i]);
}

constexpr int STEPS = 4;  // k-steps of 32 bytes in a panel

// A (64 x one panel of k) times B, both in shared memory; each operand K-major, or MN-major with one panel of k rows.
template <Dtype T, int N, bool TransA, bool TransB>
ATTNBENCH_DEVICE void product_shared(const ProbeArguments& args) {
  constexpr int b_rows = TransB ? 64 : N, b_boxes = TransB ? (N + 63) / 64 : 1;
  load(args, int(B_OFFSET), b_boxes, b_rows * int(PANEL_ROW_BYTES), 0, 0);
  const uint32_t a = shared_base(), b = a + B_OFFSET;
  const uint64_t a_start = TransA ? mn_major_descriptor(a, A_ROWS) : k_major_descriptor(a);
  const uint64_t b_start = TransB ? mn_major_descriptor(b, b_rows) : k_major_descriptor(b);
  float d[N / 2];
  ptx::wgmma_fence();
  ATTNBENCH_UNROLL
  for (int step = 0; step < STEPS; ++step) {
    ptx::wgmma_ss<T, N, TransA, TransB>(d, a_start + (TransA ? mn_major_step(step) : k_major_step(step, A_ROWS)),
                                        b_start + (TransB ? mn_major_step(step) : k_major_step(step, b_rows)),
                                        step > 0);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  write_accumulator<N>(args, d);
}

// The same with A straight from the input words: words[step][thread][4].
template <Dtype T, int N, bool TransB>
ATTNBENCH_DEVICE void product_registers(const ProbeArguments& args) {
  constexpr int b_rows = TransB ? 64 : N, b_boxes = TransB ? (N + 63) / 64 : 1;
  load(args, 0, b_boxes, b_rows * int(PANEL_ROW_BYTES), 0, 0);
  uint32_t fragments[STEPS][4];
  ATTNBENCH_UNROLL
  for (int i = 0; i < STEPS * 4; ++i)
    fragments[i / 4][i % 4] = args.words[(i / 4 * THREADS + thread_index()) * 4 + i % 4];
  const uint32_t b = shared_base() + B_OFFSET;
  const uint64_t b_start = TransB ? mn_major_descriptor(b, b_rows) : k_major_descriptor(b);
  float d[N / 2];
  ptx::wgmma_fence();
  ATTNBENCH_UNROLL
  for (int step = 0; step < STEPS; ++step) {
    ptx::wgmma_rs<T, N, TransB>(d, fragments[step],
                                b_start + (TransB ? mn_major_step(step) : k_major_step(step, b_rows)), step > 0);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  write_accumulator<N>(args, d);
}

// Each warp stores its own four 8x8 matrices; words[thread][4], lane i addresses row i of 32 rows of 16 bytes.
template <bool Transposed>
ATTNBENCH_DEVICE void fragment_store(const ProbeArguments& args) {
  const uint32_t address = shared_base() + uint32_t(thread_index()) * 16;
  const uint32_t* words = args.words + thread_index() * 4;
  if (Transposed) {
    ptx::stmatrix_x4_trans(address, words[0], words[1], words[2], words[3]);
  } else {
    ptx::stmatrix_x4(address, words[0], words[1], words[2], words[3]);
  }
  ptx::cta_sync();
  for (uint32_t at = uint32_t(thread_index()); at < THREADS * 4; at += THREADS) {
    args.out[at] = ptx::load_shared_b32(shared_base() + at * 4);
  }
}

ATTNBENCH_DEVICE float word_float(const ProbeArguments& args, int i) {
  return reinterpret_cast<const float*>(args.words)[i];
}

// out[3 i]: word i and its successor as fp16 pair, as bf16 pair; it and three successors as e4m3.
ATTNBENCH_DEVICE void conversions(const ProbeArguments& args) {
  for (int i = thread_index(); i + 3 < args.count; i += THREADS) {
    const float x = word_float(args, i), y = word_float(args, i + 1);
    args.out[3 * i] = ptx::pack_f16x2(x, y);
    args.out[3 * i + 1] = ptx::pack_bf16x2(x, y);
    args.out[3 * i + 2] = ptx::pack_e4m3x4(x, y, word_float(args, i + 2), word_float(args, i + 3));
  }
}

ATTNBENCH_DEVICE void exponentials(const ProbeArguments& args) {
  for (int i = thread_index(); i < args.count; i += THREADS) {
    ptx::store_global_f32(reinterpret_cast<float*>(args.out) + i, ptx::ex2(word_float(args, i)));
  }
}

}  // namespace
}  // namespace attnbench

// P(name, body): the name is also that of the kernel and of the arrays in tests/golden.
#define PROBES(P)                                                           \
  P(tma_image, tma_image(args))                                             \
  P(tma_half_panel, tma_half_panel(args))                                   \
  P(tma_stored, tma_stored(args))                                           \
  P(ss_fp16_n64, product_shared<Dtype::fp16, 64, false, false>(args))       \
  P(ss_fp16_n256, product_shared<Dtype::fp16, 256, false, false>(args))     \
  P(ss_fp16_n80, product_shared<Dtype::fp16, 80, false, false>(args))       \
  P(ss_bf16_n176, product_shared<Dtype::bf16, 176, false, false>(args))     \
  P(ss_fp16_n64_tb, product_shared<Dtype::fp16, 64, false, true>(args))     \
  P(ss_bf16_n128_tb, product_shared<Dtype::bf16, 128, false, true>(args))   \
  P(ss_fp16_n256_tb, product_shared<Dtype::fp16, 256, false, true>(args))   \
  P(ss_fp16_n64_ta, product_shared<Dtype::fp16, 64, true, false>(args))     \
  P(ss_bf16_n128_ta_tb, product_shared<Dtype::bf16, 128, true, true>(args)) \
  P(ss_e4m3_n64, product_shared<Dtype::e4m3, 64, false, false>(args))       \
  P(ss_e4m3_n128, product_shared<Dtype::e4m3, 128, false, false>(args))     \
  P(ss_e4m3_n160, product_shared<Dtype::e4m3, 160, false, false>(args))     \
  P(ss_e4m3_n192, product_shared<Dtype::e4m3, 192, false, false>(args))     \
  P(ss_e4m3_n224, product_shared<Dtype::e4m3, 224, false, false>(args))     \
  P(ss_e4m3_sums, product_shared<Dtype::e4m3, 64, false, false>(args))      \
  P(rs_fp16_n64, product_registers<Dtype::fp16, 64, false>(args))           \
  P(rs_bf16_n128_tb, product_registers<Dtype::bf16, 128, true>(args))       \
  P(rs_fp16_n256_tb, product_registers<Dtype::fp16, 256, true>(args))       \
  P(rs_e4m3_n64, product_registers<Dtype::e4m3, 64, false>(args))           \
  P(rs_e4m3_n128, product_registers<Dtype::e4m3, 128, false>(args))         \
  P(rs_e4m3_n256, product_registers<Dtype::e4m3, 256, false>(args))         \
  P(stmatrix, fragment_store<false>(args))                                  \
  P(stmatrix_trans, fragment_store<true>(args))                             \
  P(conversions, conversions(args))                                         \
  P(exponentials, exponentials(args))

// In a cluster of two CTAs.
#define CLUSTER_PROBES(P) P(multicast_image, multicast_image(args))

#define DEFINE_PROBE(name, ...)                                                                                  \
  extern "C" ATTNBENCH_KERNEL(128) golden_##name(ATTNBENCH_GRID_CONSTANT const attnbench::ProbeArguments args) { \
    using namespace attnbench;                                                                                   \
    __VA_ARGS__;                                                                                                 \
  }
PROBES(DEFINE_PROBE)
CLUSTER_PROBES(DEFINE_PROBE)

// One tensor of a probe: `columns` x `rows` elements, contiguous, read or written in boxes of 128 bytes by box_rows.
// data null: the probe has no such tensor.
struct GoldenTensor {
  const void* data;
  int32_t dtype, rows, columns, box_rows;
};

static int32_t encode(attnbench::ptx::TensorMap* map, const GoldenTensor& tensor) {
  using namespace attnbench;
  if (tensor.data == nullptr) return ATTNBENCH_OK;
  const Dtype dtype = static_cast<Dtype>(tensor.dtype);
  const int64_t sizes[4] = {tensor.columns, tensor.rows, 1, 1};
  const int64_t strides[3] = {tensor.columns, int64_t{tensor.columns} * tensor.rows,
                              int64_t{tensor.columns} * tensor.rows};
  const int box[4] = {panel_columns(dtype), tensor.box_rows, 1, 1};
  return encode_tensor_map(map, dtype, tensor.data, sizes, strides, box);
}

#define NAME_OF(name, ...) #name,
#define LAUNCH_PROBE(name, ...)                                                                                 \
  if (probe == number++) {                                                                                      \
    if (int32_t status = attnbench::allow_shared_memory(golden_##name, attnbench::SHARED_BYTES)) return status; \
    return attnbench::launch(golden_##name, 1, attnbench::THREADS, attnbench::SHARED_BYTES, stream, args);      \
  }

#define LAUNCH_CLUSTER_PROBE(name, ...)                                                                             \
  if (probe == number++) {                                                                                          \
    if (int32_t status = attnbench::allow_shared_memory(golden_##name, attnbench::SHARED_BYTES)) return status;     \
    return attnbench::launch_clusters(golden_##name, 2, 1, attnbench::THREADS, attnbench::SHARED_BYTES, stream, args); \
  }

static const char* const PROBE_NAMES[] = {PROBES(NAME_OF) CLUSTER_PROBES(NAME_OF) nullptr};

// Name of probe `index`, null past the end.
ATTNBENCH_EXPORT const char* golden_name(int32_t index) {
  return index >= 0 && index < int32_t(sizeof PROBE_NAMES / sizeof PROBE_NAMES[0]) ? PROBE_NAMES[index] : nullptr;
}

// Runs one probe on device memory (host memory in the emulation). words: `count` 32-bit inputs, or null.
ATTNBENCH_EXPORT int32_t golden_run(int32_t probe, const GoldenTensor* a, const GoldenTensor* b, const uint32_t* words,
                                    int32_t count, uint32_t* out, void* stream) {
  attnbench::ProbeArguments args = {};
  args.words = words;
  args.out = out;
  args.count = count;
  if (int32_t status = encode(&args.a, *a)) return status;
  if (int32_t status = encode(&args.b, *b)) return status;
  int number = 0;
  PROBES(LAUNCH_PROBE)
  CLUSTER_PROBES(LAUNCH_CLUSTER_PROBE)
  return ATTNBENCH_UNSUPPORTED_VARIANT;
}
