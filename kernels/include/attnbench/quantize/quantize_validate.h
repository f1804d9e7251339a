// The argument check of the quantize kernel's library. Plain C++17 without CUDA, as validate.h, whose checks of one
// tensor it uses.
#pragma once

#include <attnbench/quantize_abi.h>
#include <attnbench/validate.h>

#include <cstdint>

namespace attnbench {

constexpr int64_t QUANTIZE_TILE = ATTNBENCH_QUANTIZE_TILE;
// A warp of v holds 32 tokens, so no smaller block lies in whole warps.
constexpr int32_t SMALLEST_BLOCK = 32;
// Tiles of q, k and v together: the kernels use the bits above.
constexpr int64_t MOST_TILES = int64_t{1} << 30;

inline int64_t ceil_quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Descales of one tensor.
inline int64_t group_count(const AttnbenchQuantizeArgs& args, int64_t seqlen, int64_t heads) {
  switch (args.scaling) {
    case ATTNBENCH_SCALING_HEAD: return args.batch * heads;
    case ATTNBENCH_SCALING_BLOCK: return args.batch * ceil_quotient(seqlen, args.block_size) * heads;
    default: return 1;
  }
}

// Whether a group reaches beyond one CTA's tokens: its largest magnitude must then be known before anything is written.
inline bool needs_two_passes(const AttnbenchQuantizeArgs& args) {
  return args.scaling == ATTNBENCH_SCALING_TENSOR || args.scaling == ATTNBENCH_SCALING_HEAD ||
         (args.scaling == ATTNBENCH_SCALING_BLOCK && args.block_size > QUANTIZE_TILE);
}

// One word a group of q, k and v: the bits of its largest magnitude.
inline uint64_t quantize_workspace_bytes(const AttnbenchQuantizeArgs& args) {
  if (!needs_two_passes(args)) return 0;
  return sizeof(uint32_t) * static_cast<uint64_t>(group_count(args, args.seqlen_q, args.num_heads) +
                                                  2 * group_count(args, args.seqlen_k, args.num_heads_kv));
}

inline int32_t check_scheme(const AttnbenchQuantizeArgs& args, const Reason& reason) {
  if (args.scaling < ATTNBENCH_SCALING_NONE || args.scaling > ATTNBENCH_SCALING_BLOCK) {
    return reason.refuse(ATTNBENCH_BAD_SCALE, "scaling %d: must be 0 (none), 1 (tensor), 2 (head) or 3 (block)",
                         args.scaling);
  }
  if (args.hadamard != 0 && args.hadamard != 1) {
    return reason.refuse(ATTNBENCH_BAD_SCALE, "hadamard is %d: must be 0 or 1", args.hadamard);
  }
  const int32_t size = args.block_size;
  const bool divides = size == SMALLEST_BLOCK || size == 2 * SMALLEST_BLOCK;
  if (args.scaling == ATTNBENCH_SCALING_BLOCK && !divides && (size < 1 || size % QUANTIZE_TILE != 0)) {
    return reason.refuse(ATTNBENCH_BAD_SHAPE, "block_size is %d: must be 32, 64 or a multiple of 128", size);
  }
  return ATTNBENCH_OK;
}

inline int32_t check_quantize_sizes(const AttnbenchQuantizeArgs& args, const Reason& reason) {
  const struct {
    const char* name;
    int32_t value;
  } sizes[] = {{"batch", args.batch},
               {"seqlen_q", args.seqlen_q},
               {"seqlen_k", args.seqlen_k},
               {"num_heads", args.num_heads},
               {"num_heads_kv", args.num_heads_kv}};
  for (const auto& size : sizes) {
    if (size.value < 1) {
      return reason.refuse(ATTNBENCH_BAD_SHAPE, "%s is %d: must be at least 1", size.name, size.value);
    }
  }
  if (args.seqlen_q > ATTNBENCH_MAX_SEQLEN || args.seqlen_k > ATTNBENCH_MAX_SEQLEN) {
    return reason.refuse(ATTNBENCH_TOO_LARGE, "seqlen_q %d, seqlen_k %d: the longest is %d", args.seqlen_q,
                         args.seqlen_k, ATTNBENCH_MAX_SEQLEN);
  }
  // Divides instead of multiplying: the three numbers may reach 2^31 each. A third for each tensor.
  const int64_t heads = args.num_heads > args.num_heads_kv ? args.num_heads : args.num_heads_kv;
  const int64_t seqlen = args.seqlen_q > args.seqlen_k ? args.seqlen_q : args.seqlen_k;
  if (int64_t{args.batch} * heads > MOST_TILES / 3 / ceil_quotient(seqlen, QUANTIZE_TILE)) {
    return reason.refuse(ATTNBENCH_TOO_LARGE, "batch %d x %lld heads x seqlen %lld: more than 2^30 tiles",
                         args.batch, static_cast<long long>(heads), static_cast<long long>(seqlen));
  }
  return ATTNBENCH_OK;
}

inline int32_t check_quantize_tensors(const AttnbenchQuantizeArgs& args, const Reason& reason) {
  const TensorView inputs[] = {
      {"q", args.q, {args.batch, args.seqlen_q, args.num_heads}, args.q_strides, args.head_dim, 2},
      {"k", args.k, {args.batch, args.seqlen_k, args.num_heads_kv}, args.k_strides, args.head_dim, 2},
      {"v", args.v, {args.batch, args.seqlen_k, args.num_heads_kv}, args.v_strides, args.head_dim, 2},
  };
  for (const TensorView& tensor : inputs) {
    if (int32_t status = check_pointer(tensor, reason)) return status;
    if (int32_t status = check_strides(tensor, reason)) return status;
  }
  for (const TensorView& tensor :
       {TensorView{"q8", args.q8, {}, nullptr, 0, 1}, TensorView{"k8", args.k8, {}, nullptr, 0, 1},
        TensorView{"v8t", args.v8t, {}, nullptr, 0, 1}, TensorView{"q_descale", args.q_descale, {}, nullptr, 0, 4},
        TensorView{"k_descale", args.k_descale, {}, nullptr, 0, 4},
        TensorView{"v_descale", args.v_descale, {}, nullptr, 0, 4}}) {
    if (tensor.data == nullptr) return reason.refuse(ATTNBENCH_NULL_POINTER, "%s is NULL", tensor.name);
    const uintptr_t alignment = tensor.element_bytes == 4 ? sizeof(float) : TMA_ALIGNMENT_BYTES;
    if (reinterpret_cast<uintptr_t>(tensor.data) % alignment != 0) {
      return reason.refuse(ATTNBENCH_BAD_ALIGNMENT, "%s starts at %p: must be %d-byte aligned", tensor.name,
                           tensor.data, static_cast<int>(alignment));
    }
  }
  return ATTNBENCH_OK;
}

// All checks of a call but the workspace's. Reads nothing behind the tensor pointers.
inline int32_t validate_quantize(const AttnbenchQuantizeArgs* args, const AttnbenchQuantizeVariant* variants,
                                 int32_t count, const Reason& reason) {
  if (args == nullptr) return reason.refuse(ATTNBENCH_NULL_POINTER, "args is NULL");
  if (args->abi_version != ATTNBENCH_QUANTIZE_ABI_VERSION) {
    return reason.refuse(ATTNBENCH_BAD_ABI, "the caller speaks ABI version %u, the library %u: rebuild the kernels",
                         args->abi_version, ATTNBENCH_QUANTIZE_ABI_VERSION);
  }
  if (args->struct_size != sizeof(AttnbenchQuantizeArgs)) {
    return reason.refuse(ATTNBENCH_BAD_STRUCT_SIZE, "the caller's argument struct has %u bytes, the library's %zu",
                         args->struct_size, sizeof(AttnbenchQuantizeArgs));
  }
  if (args->dtype != ATTNBENCH_DTYPE_FP16 && args->dtype != ATTNBENCH_DTYPE_BF16) {
    return reason.refuse(ATTNBENCH_BAD_DTYPE, "dtype %d: must be 0 (fp16) or 1 (bf16)", args->dtype);
  }
  bool found = false;
  for (int32_t i = 0; i < count; ++i) {
    found = found || (variants[i].dtype == args->dtype && variants[i].head_dim == args->head_dim);
  }
  if (!found) {
    return reason.refuse(ATTNBENCH_UNSUPPORTED_VARIANT, "there is no variant for head_dim %d", args->head_dim);
  }
  if (int32_t status = check_scheme(*args, reason)) return status;
  if (int32_t status = check_quantize_sizes(*args, reason)) return status;
  return check_quantize_tensors(*args, reason);
}

inline int32_t check_quantize_workspace(const AttnbenchQuantizeArgs& args, const Reason& reason) {
  AttnbenchForwardArgs memory = {};
  memory.workspace = args.workspace;
  memory.workspace_bytes = args.workspace_bytes;
  return check_workspace(memory, quantize_workspace_bytes(args), reason);
}

}  // namespace attnbench
