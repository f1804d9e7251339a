// The one argument check of all kernel libraries, and the definition of their exports.
//
// Plain C++17 without CUDA, so that the CUDA build, the emulated build and the tests run the same check. A kernel file
// contributes its variant table, a launch function and its workspace need, and ends with ATTNBENCH_EXPORTS.
#pragma once

#include <attnbench/abi.h>

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace attnbench {

// TMA: global address and strides are multiples of 16 bytes, strides below 2^40 bytes (CUDA Driver API,
// cuTensorMapEncodeTiled).
constexpr int64_t TMA_ALIGNMENT_BYTES = 16;
constexpr int64_t TMA_STRIDE_LIMIT_BYTES = int64_t{1} << 40;
// Smallest query tile of any kernel: one warpgroup's 64 rows. Bounds the number of output tiles.
constexpr int64_t SMALLEST_TILE_M = 64;
constexpr int64_t LARGEST_GRID = INT32_MAX;
// In bytes it still is an int32, which the main loop multiplies with.
constexpr int64_t DESCALE_STRIDE_LIMIT = int64_t{1} << 29;

inline int element_bytes(int32_t dtype) { return dtype == ATTNBENCH_DTYPE_E4M3 ? 1 : 2; }

inline const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case ATTNBENCH_DTYPE_FP16: return "fp16";
    case ATTNBENCH_DTYPE_BF16: return "bf16";
    case ATTNBENCH_DTYPE_E4M3: return "e4m3";
    default: return "unknown";
  }
}

// Where a refusal's sentence goes; a NULL buffer costs nothing.
struct Reason {
  char* text = nullptr;
  size_t bytes = 0;

  // Returns `status`, so that a check can refuse and explain in one statement.
  int32_t refuse(int32_t status, const char* format, ...) const
#if defined(__GNUC__)
      __attribute__((format(printf, 3, 4)))
#endif
  {
    if (text != nullptr && bytes > 0) {
      va_list values;
      va_start(values, format);
      std::vsnprintf(text, bytes, format, values);
      va_end(values);
    }
    return status;
  }
};

// Length of a row of V^T (abi.h).
inline int64_t padded_tokens(int64_t seqlen) { return (seqlen + 15) / 16 * 16; }

// One tensor of the call as the checks see it: sizes and strides in the order (batch, seqlen, head).
struct TensorView {
  const char* name;
  const void* data;
  int64_t sizes[3];
  const int64_t* strides;
  int64_t last_size;  // head_dim, contiguous
  int64_t element_bytes;
  bool transposed = false;  // rows of head_dim and tokens have changed places
};

inline int32_t check_strides(const TensorView& tensor, const Reason& reason) {
  const char* const dimension[3] = {"batch", tensor.transposed ? "head_dim" : "seqlen", "head"};
  for (int i = 0; i < 3; ++i) {
    if (tensor.sizes[i] == 1) continue;  // never stepped over
    const long long stride = tensor.strides[i];
    if (stride <= 0) {
      return reason.refuse(ATTNBENCH_BAD_STRIDE,
                           "%s stride over %s is %lld: must be positive (an expanded tensor needs .contiguous())",
                           tensor.name, dimension[i], stride);
    }
    if (stride >= TMA_STRIDE_LIMIT_BYTES / tensor.element_bytes) {
      return reason.refuse(ATTNBENCH_BAD_STRIDE, "%s stride over %s is %lld elements: must be below 2^40 bytes",
                           tensor.name, dimension[i], stride);
    }
    if (stride * tensor.element_bytes % TMA_ALIGNMENT_BYTES != 0) {
      return reason.refuse(ATTNBENCH_BAD_STRIDE,
                           "%s stride over %s is %lld elements (%lld bytes): must be a multiple of 16 bytes",
                           tensor.name, dimension[i], stride, static_cast<long long>(stride * tensor.element_bytes));
    }
  }
  return ATTNBENCH_OK;
}

// Two elements of `out` at one address would be a race: every stride must step over all that lies inside it.
inline int32_t check_no_overlap(const TensorView& tensor, const Reason& reason) {
  int order[3] = {0, 1, 2};
  for (int i = 0; i < 2; ++i) {
    for (int j = i + 1; j < 3; ++j) {
      if (tensor.strides[order[j]] < tensor.strides[order[i]]) {
        const int swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
      }
    }
  }
  int64_t extent = tensor.last_size;
  for (int i : order) {
    if (tensor.sizes[i] == 1) continue;
    if (tensor.strides[i] < extent) {
      return reason.refuse(ATTNBENCH_BAD_STRIDE, "%s strides (%lld, %lld, %lld) make its elements overlap", tensor.name,
                           static_cast<long long>(tensor.strides[0]), static_cast<long long>(tensor.strides[1]),
                           static_cast<long long>(tensor.strides[2]));
    }
    extent = tensor.strides[i] * (tensor.sizes[i] - 1) + extent;
  }
  return ATTNBENCH_OK;
}

inline int32_t check_pointer(const TensorView& tensor, const Reason& reason) {
  if (tensor.data == nullptr) return reason.refuse(ATTNBENCH_NULL_POINTER, "%s is NULL", tensor.name);
  if (reinterpret_cast<uintptr_t>(tensor.data) % TMA_ALIGNMENT_BYTES != 0) {
    return reason.refuse(ATTNBENCH_BAD_ALIGNMENT, "%s starts at %p: must be 16-byte aligned", tensor.name, tensor.data);
  }
  return ATTNBENCH_OK;
}

inline int32_t check_sizes(const AttnbenchForwardArgs& args, const Reason& reason) {
  const struct {
    const char* name;
    int32_t value;
  } sizes[] = {{"batch", args.batch},         {"seqlen_q", args.seqlen_q},
               {"seqlen_k", args.seqlen_k},   {"num_heads", args.num_heads},
               {"num_heads_kv", args.num_heads_kv}};
  for (const auto& size : sizes) {
    if (size.value < 1) {
      return reason.refuse(ATTNBENCH_BAD_SHAPE, "%s is %d: must be at least 1", size.name, size.value);
    }
  }
  if (args.num_heads % args.num_heads_kv != 0) {
    return reason.refuse(ATTNBENCH_BAD_SHAPE, "num_heads %d is not a multiple of num_heads_kv %d", args.num_heads,
                         args.num_heads_kv);
  }
  if (args.seqlen_q > ATTNBENCH_MAX_SEQLEN || args.seqlen_k > ATTNBENCH_MAX_SEQLEN) {
    return reason.refuse(ATTNBENCH_TOO_LARGE, "seqlen_q %d, seqlen_k %d: the longest is %d", args.seqlen_q,
                         args.seqlen_k, ATTNBENCH_MAX_SEQLEN);
  }
  // Divides instead of multiplying three numbers that may reach 2^31 each.
  const int64_t tiles_per_head = (int64_t{args.seqlen_q} + SMALLEST_TILE_M - 1) / SMALLEST_TILE_M;
  if (int64_t{args.batch} * args.num_heads > LARGEST_GRID / tiles_per_head) {
    return reason.refuse(ATTNBENCH_TOO_LARGE,
                         "batch %d x num_heads %d x seqlen_q %d: more than 2^31 - 1 tiles of 64 rows", args.batch,
                         args.num_heads, args.seqlen_q);
  }
  return ATTNBENCH_OK;
}

inline int32_t check_variant(const AttnbenchForwardArgs& args, const AttnbenchVariant* variants, int32_t count,
                             const Reason& reason) {
  if (args.variant < 0 || args.variant >= count) {
    return reason.refuse(ATTNBENCH_UNSUPPORTED_VARIANT, "variant %d does not exist: there are %d", args.variant, count);
  }
  const AttnbenchVariant& variant = variants[args.variant];
  if (args.dtype != variant.dtype) {
    return reason.refuse(ATTNBENCH_UNSUPPORTED_VARIANT, "variant %d (%s) is for %s, not %s", args.variant, variant.name,
                         dtype_name(variant.dtype), dtype_name(args.dtype));
  }
  if (args.head_dim != variant.head_dim || args.head_dim_v != variant.head_dim) {
    return reason.refuse(ATTNBENCH_UNSUPPORTED_VARIANT, "variant %d (%s) is for head_dim %d, not %d (head_dim_v %d)",
                         args.variant, variant.name, variant.head_dim, args.head_dim, args.head_dim_v);
  }
  if (variant.causal != -1 && args.causal != variant.causal) {
    return reason.refuse(ATTNBENCH_UNSUPPORTED_VARIANT, "variant %d (%s) is for causal=%d, not %d", args.variant,
                         variant.name, variant.causal, args.causal);
  }
  return ATTNBENCH_OK;
}

inline TensorView value_view(const AttnbenchForwardArgs& args) {
  const int64_t bytes = element_bytes(args.dtype);
  if (args.dtype == ATTNBENCH_DTYPE_E4M3) {
    const int64_t tokens = padded_tokens(args.seqlen_k);
    return {"v", args.v, {args.batch, args.head_dim_v, args.num_heads_kv}, args.v_strides, tokens, bytes, true};
  }
  return {"v", args.v, {args.batch, args.seqlen_k, args.num_heads_kv}, args.v_strides, args.head_dim_v, bytes};
}

inline int32_t check_tensors(const AttnbenchForwardArgs& args, const Reason& reason) {
  const int64_t bytes = element_bytes(args.dtype);
  const TensorView tensors[] = {
      {"q", args.q, {args.batch, args.seqlen_q, args.num_heads}, args.q_strides, args.head_dim, bytes},
      {"k", args.k, {args.batch, args.seqlen_k, args.num_heads_kv}, args.k_strides, args.head_dim, bytes},
      value_view(args),
      {"out", args.out, {args.batch, args.seqlen_q, args.num_heads}, args.out_strides, args.head_dim_v, 2},
  };
  for (const TensorView& tensor : tensors) {
    if (int32_t status = check_pointer(tensor, reason)) return status;
    if (int32_t status = check_strides(tensor, reason)) return status;
  }
  if (int32_t status = check_no_overlap(tensors[3], reason)) return status;
  if (reinterpret_cast<uintptr_t>(args.lse) % sizeof(float) != 0) {
    return reason.refuse(ATTNBENCH_BAD_ALIGNMENT, "lse starts at %p: must be 4-byte aligned",
                         static_cast<const void*>(args.lse));
  }
  return ATTNBENCH_OK;
}

// Descales of one operand: where they lie. What they hold is on the device and cannot be looked at.
inline int32_t check_descales(const char* name, const float* data, const int64_t strides[3], const Reason& reason) {
  static const char* const dimension[3] = {"batch", "block", "head"};
  if (data == nullptr) return reason.refuse(ATTNBENCH_NULL_POINTER, "%s is NULL", name);
  if (reinterpret_cast<uintptr_t>(data) % sizeof(float) != 0) {
    return reason.refuse(ATTNBENCH_BAD_DESCALE, "%s starts at %p: must be 4-byte aligned", name,
                         static_cast<const void*>(data));
  }
  for (int i = 0; i < 3; ++i) {
    if (strides[i] < 0 || strides[i] > DESCALE_STRIDE_LIMIT) {
      return reason.refuse(ATTNBENCH_BAD_DESCALE, "%s stride over %s is %lld: must be from 0 to 2^29", name,
                           dimension[i], static_cast<long long>(strides[i]));
    }
  }
  return ATTNBENCH_OK;
}

inline int32_t check_block_size(const AttnbenchForwardArgs& args, const AttnbenchVariant& variant,
                                const Reason& reason) {
  const int32_t tokens = args.descale_block_size;
  if (tokens == 0) return ATTNBENCH_OK;
  if (tokens < ATTNBENCH_MIN_DESCALE_BLOCK || (tokens & (tokens - 1)) != 0) {
    return reason.refuse(ATTNBENCH_BAD_DESCALE,
                         "descale_block_size is %d: must be 0 (one descale a head) or a power of two from %d on",
                         tokens, ATTNBENCH_MIN_DESCALE_BLOCK);
  }
  if ((variant.flags & ATTNBENCH_FLAG_BLOCK_DESCALES) == 0) {
    return reason.refuse(ATTNBENCH_UNSUPPORTED_VARIANT, "variant %d (%s) takes one descale a head, not one a block",
                         args.variant, variant.name);
  }
  return ATTNBENCH_OK;
}

// What only e4m3 has: descales, the scale of the weights, a type of its own for the output.
inline int32_t check_fp8(const AttnbenchForwardArgs& args, const AttnbenchVariant& variant, const Reason& reason) {
  int exponent = 0;
  const bool is_power = std::frexp(args.p_scale, &exponent) == 0.5f;
  if (!is_power || args.p_scale < 1.0f || args.p_scale > float(ATTNBENCH_MAX_P_SCALE)) {
    return reason.refuse(ATTNBENCH_BAD_SCALE, "p_scale is %g: must be a power of two from 1 to %d",
                         static_cast<double>(args.p_scale), ATTNBENCH_MAX_P_SCALE);
  }
  if (args.out_dtype != ATTNBENCH_DTYPE_FP16 && args.out_dtype != ATTNBENCH_DTYPE_BF16) {
    return reason.refuse(ATTNBENCH_BAD_DTYPE, "out_dtype %d: must be 0 (fp16) or 1 (bf16) for e4m3", args.out_dtype);
  }
  if (int32_t status = check_block_size(args, variant, reason)) return status;
  if (int32_t status = check_descales("q_descale", args.q_descale, args.q_descale_strides, reason)) return status;
  if (int32_t status = check_descales("k_descale", args.k_descale, args.k_descale_strides, reason)) return status;
  return check_descales("v_descale", args.v_descale, args.v_descale_strides, reason);
}

inline int32_t check_no_fp8(const AttnbenchForwardArgs& args, const Reason& reason) {
  if (args.out_dtype != args.dtype) {
    return reason.refuse(ATTNBENCH_BAD_DTYPE, "out_dtype %d: must be %d, as dtype", args.out_dtype, args.dtype);
  }
  if (args.q_descale != nullptr || args.k_descale != nullptr || args.v_descale != nullptr ||
      args.descale_block_size != 0) {
    return reason.refuse(ATTNBENCH_BAD_DESCALE, "descales are for e4m3, not for %s", dtype_name(args.dtype));
  }
  return ATTNBENCH_OK;
}

// All checks of a call but the workspace's. Reads nothing behind the tensor pointers.
inline int32_t validate(const AttnbenchForwardArgs* args, const AttnbenchVariant* variants, int32_t count,
                        const Reason& reason) {
  if (args == nullptr) return reason.refuse(ATTNBENCH_NULL_POINTER, "args is NULL");
  if (args->abi_version != ATTNBENCH_ABI_VERSION) {
    return reason.refuse(ATTNBENCH_BAD_ABI, "the caller speaks ABI version %u, the library %u: rebuild the kernels",
                         args->abi_version, ATTNBENCH_ABI_VERSION);
  }
  if (args->struct_size != sizeof(AttnbenchForwardArgs)) {
    return reason.refuse(ATTNBENCH_BAD_STRUCT_SIZE, "the caller's argument struct has %u bytes, the library's %zu",
                         args->struct_size, sizeof(AttnbenchForwardArgs));
  }
  if (args->dtype < ATTNBENCH_DTYPE_FP16 || args->dtype > ATTNBENCH_DTYPE_E4M3) {
    return reason.refuse(ATTNBENCH_BAD_DTYPE, "dtype %d: must be 0 (fp16), 1 (bf16) or 2 (e4m3)", args->dtype);
  }
  if (args->causal != 0 && args->causal != 1) {
    return reason.refuse(ATTNBENCH_BAD_SHAPE, "causal is %d: must be 0 or 1", args->causal);
  }
  if (!std::isfinite(args->softmax_scale) || args->softmax_scale <= 0.0f) {
    return reason.refuse(ATTNBENCH_BAD_SCALE, "softmax_scale is %g: must be finite and above 0",
                         static_cast<double>(args->softmax_scale));
  }
  if (int32_t status = check_variant(*args, variants, count, reason)) return status;
  if (int32_t status = check_sizes(*args, reason)) return status;
  if (int32_t status = args->dtype == ATTNBENCH_DTYPE_E4M3 ? check_fp8(*args, variants[args->variant], reason)
                                                          : check_no_fp8(*args, reason)) {
    return status;
  }
  return check_tensors(*args, reason);
}

inline int32_t check_workspace(const AttnbenchForwardArgs& args, uint64_t needed_bytes, const Reason& reason) {
  if (needed_bytes == 0) return ATTNBENCH_OK;
  if (args.workspace_bytes < needed_bytes) {
    return reason.refuse(ATTNBENCH_WORKSPACE_TOO_SMALL, "workspace has %llu bytes, %llu are needed",
                         static_cast<unsigned long long>(args.workspace_bytes),
                         static_cast<unsigned long long>(needed_bytes));
  }
  if (args.workspace == nullptr) return reason.refuse(ATTNBENCH_NULL_POINTER, "workspace is NULL");
  if (reinterpret_cast<uintptr_t>(args.workspace) % TMA_ALIGNMENT_BYTES != 0) {
    return reason.refuse(ATTNBENCH_BAD_ALIGNMENT, "workspace starts at %p: must be 16-byte aligned", args.workspace);
  }
  return ATTNBENCH_OK;
}

inline const char* status_name(int32_t status) {
  switch (status) {
    case ATTNBENCH_OK: return "ok";
    case ATTNBENCH_BAD_ABI: return "bad ABI version";
    case ATTNBENCH_BAD_STRUCT_SIZE: return "bad argument struct size";
    case ATTNBENCH_NULL_POINTER: return "null pointer";
    case ATTNBENCH_UNSUPPORTED_VARIANT: return "unsupported variant";
    case ATTNBENCH_BAD_DTYPE: return "bad dtype";
    case ATTNBENCH_BAD_SHAPE: return "bad shape";
    case ATTNBENCH_BAD_STRIDE: return "bad stride";
    case ATTNBENCH_BAD_ALIGNMENT: return "bad alignment";
    case ATTNBENCH_BAD_SCALE: return "bad scale";
    case ATTNBENCH_TOO_LARGE: return "too large";
    case ATTNBENCH_WORKSPACE_TOO_SMALL: return "workspace too small";
    case ATTNBENCH_NO_DRIVER: return "no CUDA driver, one older than the CUDA runtime, or no device";
    case ATTNBENCH_WRONG_ARCHITECTURE: return "the device is not compute capability 9.0 (Hopper)";
    case ATTNBENCH_TENSOR_MAP_ERROR: return "the driver refused a tensor map";
    case ATTNBENCH_BAD_DESCALE: return "bad descale";
    default: return "unknown status";
  }
}

}  // namespace attnbench

// Defines the exports of abi.h. `variants`: array of AttnbenchVariant. `launch_function`: int32_t(const
// AttnbenchForwardArgs&), called with checked arguments only. `workspace_function`: uint64_t(const
// AttnbenchForwardArgs&), likewise. Needs host_error_string and check_device of host.h.
#define ATTNBENCH_EXPORT extern "C" __attribute__((visibility("default")))
#define ATTNBENCH_EXPORTS(variants, launch_function, workspace_function)                                              \
  static constexpr int32_t ATTNBENCH_VARIANT_COUNT = sizeof(variants) / sizeof((variants)[0]);                        \
  ATTNBENCH_EXPORT uint32_t attnbench_abi_version(void) { return ATTNBENCH_ABI_VERSION; }                             \
  ATTNBENCH_EXPORT int32_t attnbench_variant_count(void) { return ATTNBENCH_VARIANT_COUNT; }                          \
  ATTNBENCH_EXPORT const AttnbenchVariant* attnbench_describe(int32_t index) {                                        \
    return index >= 0 && index < ATTNBENCH_VARIANT_COUNT ? &(variants)[index] : nullptr;                              \
  }                                                                                                                   \
  ATTNBENCH_EXPORT int32_t attnbench_supports(const AttnbenchForwardArgs* args, char* text, size_t bytes) {           \
    return attnbench::validate(args, variants, ATTNBENCH_VARIANT_COUNT, attnbench::Reason{text, bytes});              \
  }                                                                                                                   \
  ATTNBENCH_EXPORT uint64_t attnbench_workspace_bytes(const AttnbenchForwardArgs* args) {                             \
    return attnbench_supports(args, nullptr, 0) == ATTNBENCH_OK ? workspace_function(*args) : 0;                      \
  }                                                                                                                   \
  ATTNBENCH_EXPORT int32_t attnbench_launch(const AttnbenchForwardArgs* args) {                                       \
    if (int32_t status = attnbench_supports(args, nullptr, 0)) return status;                                         \
    if (int32_t status = attnbench::check_workspace(*args, workspace_function(*args), attnbench::Reason{})) {         \
      return status;                                                                                                  \
    }                                                                                                                 \
    if (int32_t status = attnbench::check_device()) return status;                                                    \
    return launch_function(*args);                                                                                    \
  }                                                                                                                   \
  ATTNBENCH_EXPORT const char* attnbench_status_string(int32_t status) {                                              \
    return status < ATTNBENCH_HOST_ERROR_BASE ? attnbench::status_name(status)                                        \
                                              : attnbench::host_error_string(status - ATTNBENCH_HOST_ERROR_BASE);     \
  }
