// Attention in scalar loops behind the C interface of the kernel libraries, for tests of everything around a kernel:
// the loader, the argument struct, strides, the torch operator. It is taken for an emulated library (CPU pointers).
#include <attnbench/emulation/numeric.h>
#include <attnbench/validate.h>

#include <cstring>
#include <vector>

namespace attnbench {

inline const char* host_error_string(int32_t) { return "an error of the layer below"; }
inline int32_t check_device() { return ATTNBENCH_OK; }

float load(const void* data, int64_t index, int32_t dtype) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + 2 * index, 2);
  return dtype == ATTNBENCH_DTYPE_FP16 ? emulation::f16_to_float(bits) : emulation::bf16_to_float(bits);
}

void store(void* data, int64_t index, int32_t dtype, float value) {
  const uint16_t bits =
      dtype == ATTNBENCH_DTYPE_FP16 ? emulation::f16_from_float(value) : emulation::bf16_from_float(value);
  std::memcpy(static_cast<char*>(data) + 2 * index, &bits, 2);
}

void row(const AttnbenchForwardArgs& args, int64_t b, int64_t h, int64_t i) {
  const int64_t kv_head = h / (args.num_heads / args.num_heads_kv);
  const int64_t visible = args.causal ? i + args.seqlen_k - args.seqlen_q + 1 : args.seqlen_k;
  const auto at = [&](const int64_t* strides, int64_t token, int64_t head) {
    return b * strides[0] + token * strides[1] + head * strides[2];
  };
  std::vector<double> out(args.head_dim_v, 0.0);
  double sum = 0.0;
  for (int64_t j = 0; j < visible; ++j) {
    double score = 0.0;
    for (int d = 0; d < args.head_dim; ++d) {
      score += load(args.q, at(args.q_strides, i, h) + d, args.dtype) *
               double{load(args.k, at(args.k_strides, j, kv_head) + d, args.dtype)};
    }
    const double weight = std::exp(score * args.softmax_scale);
    sum += weight;
    for (int d = 0; d < args.head_dim_v; ++d) {
      out[d] += weight * load(args.v, at(args.v_strides, j, kv_head) + d, args.dtype);
    }
  }
  for (int d = 0; d < args.head_dim_v; ++d) {
    store(args.out, at(args.out_strides, i, h) + d, args.dtype, sum > 0 ? static_cast<float>(out[d] / sum) : 0.0f);
  }
  if (args.lse) args.lse[(b * args.num_heads + h) * args.seqlen_q + i] = static_cast<float>(std::log(sum));
}

int32_t scalar_forward(const AttnbenchForwardArgs& args) {
  for (int64_t b = 0; b < args.batch; ++b) {
    for (int64_t h = 0; h < args.num_heads; ++h) {
      for (int64_t i = 0; i < args.seqlen_q; ++i) row(args, b, h, i);
    }
  }
  // Stands for an error below the library: the largest workspace that the tests hand over asks for it.
  return args.workspace_bytes == 4096 ? ATTNBENCH_HOST_ERROR_BASE + 7 : ATTNBENCH_OK;
}

uint64_t scalar_workspace(const AttnbenchForwardArgs& args) { return args.causal ? 64 : 0; }

const AttnbenchVariant VARIANTS[] = {
    {"overlap", "scalar_fp16", ATTNBENCH_DTYPE_FP16, 64, -1, 64, 64, 1, 128, 1, 0, ATTNBENCH_FLAG_OVERLAP, 0},
    {"overlap", "scalar_bf16", ATTNBENCH_DTYPE_BF16, 64, -1, 64, 64, 1, 128, 1, 0, 0, 0},
    {"ws", "scalar_causal", ATTNBENCH_DTYPE_BF16, 64, 1, 64, 64, 1, 128, 1, 0,
     ATTNBENCH_FLAG_WARP_SPECIALIZED | ATTNBENCH_FLAG_PERSISTENT, ATTNBENCH_ACCUMULATOR_TWO_LEVEL},
};

}  // namespace attnbench

ATTNBENCH_EXPORTS(attnbench::VARIANTS, attnbench::scalar_forward, attnbench::scalar_workspace)
ATTNBENCH_EXPORT int32_t attnbench_emulation_configure(const void*) { return 0; }
