// The smallest kernel library: enough to test the build, the loader and the inspection without waiting for attention.
// With -DTINY_SPILL its tensor loop holds more values than registers; with -DTINY_SERIALIZED wgmma crosses a call.
#include <attnbench/host.h>
#include <attnbench/ptx/wgmma.cuh>
#include <attnbench/validate.h>

#include "tiny_answer.h"

namespace attnbench {

#ifdef TINY_SERIALIZED
#define TINY_INLINE __device__ __noinline__
#else
#define TINY_INLINE __device__ __forceinline__
#endif

#ifdef TINY_SPILL
constexpr int TINY_THREADS = 512;  // leaves 128 registers a thread
constexpr int KEPT = 96;
#else
constexpr int TINY_THREADS = 128;
constexpr int KEPT = 1;
#endif

TINY_INLINE void multiply(float (&scores)[64], uint64_t a, uint64_t b) {
  ptx::wgmma_ss<Dtype::fp16, 128>(scores, a, b, true);
}

extern "C" __global__ void __launch_bounds__(TINY_THREADS, 1)
    tiny(float* lse, uint64_t a, uint64_t b, int steps, const float* more) {
  float scores[64], kept[KEPT];
  for (float& score : scores) score = 0.0f;
  for (int i = 0; i < KEPT; ++i) kept[i] = more[i * TINY_THREADS + threadIdx.x];
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ptx::wgmma_fence();
    multiply(scores, a, b);
    multiply(scores, a + 2, b + 2);
    ptx::wgmma_commit_group();
#ifdef TINY_SPILL
    for (int i = 0; i < KEPT; ++i) kept[i] = kept[i] * kept[i] + kept[(i + 1) % KEPT];
#endif
    ptx::wgmma_wait_group<0>();
  }
  float sum = static_cast<float>(TINY_ANSWER);
  for (float score : scores) sum += score;
  for (float value : kept) sum += value;
  lse[threadIdx.x] = sum;
}

static const AttnbenchVariant VARIANTS[] = {
    {"simple", "tiny", ATTNBENCH_DTYPE_FP16, 64, -1, 64, 128, 1, TINY_THREADS, 1, 1024, 0, ATTNBENCH_ACCUMULATOR_FP32}};

static int32_t launch_tiny(const AttnbenchForwardArgs& args) {
  ptx::TensorMap map;
  const int64_t sizes[4] = {args.head_dim, args.seqlen_q, args.num_heads, args.batch};
  const int64_t strides[3] = {args.q_strides[1], args.q_strides[2], args.q_strides[0]};
  const int box[4] = {64, 64, 1, 1};
  if (int32_t status = encode_tensor_map(&map, Dtype::fp16, args.q, sizes, strides, box)) return status;
  return launch(tiny, 1, TINY_THREADS, 1024, args.stream, args.lse, 0, 0, args.seqlen_k,
                static_cast<const float*>(args.workspace));
}

static uint64_t tiny_workspace(const AttnbenchForwardArgs&) { return 0; }

}  // namespace attnbench

ATTNBENCH_EXPORTS(attnbench::VARIANTS, attnbench::launch_tiny, attnbench::tiny_workspace)
