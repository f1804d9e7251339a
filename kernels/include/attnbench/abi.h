/* The C interface of a compiled attention kernel library (one .so per kernels/fwd_*.cu).
 *
 * Plain C, so that no binary depends on a torch, Python or C++ version. Whoever calls fills an AttnbenchForwardArgs,
 * chooses a row of the variant table (attnbench_describe), and launches. The emulated build of the same source
 * exports the same symbols and takes host pointers.
 *
 * Every struct here is mirrored in attnbench/hopper/library.py; tests/hopper/test_abi.py compares the two field by
 * field. A change of any struct, code or meaning raises ATTNBENCH_ABI_VERSION.
 */
#ifndef ATTNBENCH_ABI_H
#define ATTNBENCH_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ATTNBENCH_ABI_VERSION 2u

#ifdef __cplusplus
extern "C" {
#endif

/* Stored type of q, k, v. out has the same type for fp16 and bf16, and is fp16 or bf16 for e4m3. */
enum {
  ATTNBENCH_DTYPE_FP16 = 0,
  ATTNBENCH_DTYPE_BF16 = 1,
  ATTNBENCH_DTYPE_E4M3 = 2
};

/* What a call returns. Values from ATTNBENCH_HOST_ERROR_BASE on are that base plus the error number of the layer
 * below: a cudaError_t in the CUDA build, a hazard number in the emulated build. */
enum {
  ATTNBENCH_OK = 0,
  ATTNBENCH_BAD_ABI = 1,             /* args->abi_version is not ATTNBENCH_ABI_VERSION */
  ATTNBENCH_BAD_STRUCT_SIZE = 2,     /* args->struct_size is not sizeof(AttnbenchForwardArgs) */
  ATTNBENCH_NULL_POINTER = 3,        /* args, q, k, v, out, a descale of e4m3, or a workspace that is needed */
  ATTNBENCH_UNSUPPORTED_VARIANT = 4, /* no such row, or the row is for another dtype, head_dim or causal */
  ATTNBENCH_BAD_DTYPE = 5,           /* not one of ATTNBENCH_DTYPE_* */
  ATTNBENCH_BAD_SHAPE = 6,           /* a size below 1, or num_heads not a multiple of num_heads_kv */
  ATTNBENCH_BAD_STRIDE = 7,          /* zero, negative, too large, not a multiple of 16 bytes, or overlapping out */
  ATTNBENCH_BAD_ALIGNMENT = 8,       /* q, k, v or out not 16-byte aligned; lse not 4-byte aligned */
  ATTNBENCH_BAD_SCALE = 9,           /* softmax_scale not finite or not above zero; p_scale no power of two it takes */
  ATTNBENCH_TOO_LARGE = 10,          /* beyond ATTNBENCH_MAX_SEQLEN or the grid limit */
  ATTNBENCH_WORKSPACE_TOO_SMALL = 11,
  ATTNBENCH_NO_DRIVER = 12,          /* no CUDA driver, one too old for the library's CUDA runtime, or no device */
  ATTNBENCH_WRONG_ARCHITECTURE = 13, /* the current device is not compute capability 9.0 */
  ATTNBENCH_TENSOR_MAP_ERROR = 14,   /* cuTensorMapEncodeTiled refused a tensor that passed the checks above */
  ATTNBENCH_BAD_DESCALE = 15,        /* descales: misaligned, strides or block size wrong, or given for fp16, bf16 */
  ATTNBENCH_HOST_ERROR_BASE = 1000
};

/* Longest seqlen_q and seqlen_k: row + seqlen_k - seqlen_q and one tile more stay within int32. */
#define ATTNBENCH_MAX_SEQLEN (1 << 29)

/* e4m3: the largest p_scale. exp(0) times it, 256, is well inside of e4m3's range (448). */
#define ATTNBENCH_MAX_P_SCALE 256
/* e4m3: the tokens that share one descale are a power of two, and no fewer than this. */
#define ATTNBENCH_MIN_DESCALE_BLOCK 128

/* What a variant does; facts that the static inspection enforces. */
enum {
  ATTNBENCH_FLAG_OVERLAP = 1u << 0,          /* a warpgroup's softmax runs under its own tensor work */
  ATTNBENCH_FLAG_PINGPONG = 1u << 1,         /* warpgroups alternate softmax and tensor work by named barriers */
  ATTNBENCH_FLAG_WARP_SPECIALIZED = 1u << 2, /* a producer issues the loads; setmaxnreg moves registers */
  ATTNBENCH_FLAG_PERSISTENT = 1u << 3,       /* a CTA works on more than one output tile */
  ATTNBENCH_FLAG_BLOCK_DESCALES = 1u << 4,   /* takes descales per block of tokens too, not only per head */
  ATTNBENCH_FLAG_POLYNOMIAL = 1u << 5,       /* a share of the exponentials is computed on the FMA pipe */
  ATTNBENCH_FLAG_MULTICAST = 1u << 6         /* two CTAs of a cluster share keys and values, each loading half */
};

/* How products are summed, see attnbench's FP8 accuracy rule: fp32, the tensor core's own (about 14 bits for e4m3),
 * or the tensor core's folded into fp32 every tile. */
enum {
  ATTNBENCH_ACCUMULATOR_FP32 = 0,
  ATTNBENCH_ACCUMULATOR_HOPPER = 1,
  ATTNBENCH_ACCUMULATOR_TWO_LEVEL = 2
};

/* One row of a library's variant table. (name, dtype, head_dim, causal) and whether it takes block descales are unique
 * within a library. */
typedef struct AttnbenchVariant {
  const char* name;            /* schedule: "simple", "ws", "pingpong", "overlap", ... */
  const char* kernel;          /* symbol of the __global__ function as it stands in the cubin (mangled if it is) */
  int32_t dtype;               /* ATTNBENCH_DTYPE_* */
  int32_t head_dim;            /* of q, k and v */
  int32_t causal;              /* 1: causal only, 0: not causal only, -1: both */
  int32_t tile_m;              /* query rows of a CTA */
  int32_t tile_n;              /* keys of one main-loop step */
  int32_t stages;              /* key/value tiles in flight */
  int32_t threads;             /* of a CTA */
  int32_t consumer_warpgroups; /* warpgroups that issue wgmma */
  int32_t shared_memory_bytes; /* dynamic, as passed to the launch */
  uint32_t flags;              /* ATTNBENCH_FLAG_* */
  int32_t accumulator;         /* ATTNBENCH_ACCUMULATOR_* */
} AttnbenchVariant;

/* One forward pass: out = softmax(softmax_scale * q k^T + mask) v, and lse.
 *
 * q    (batch, seqlen_q, num_heads,    head_dim)
 * k    (batch, seqlen_k, num_heads_kv, head_dim)
 * v    (batch, seqlen_k, num_heads_kv, head_dim_v); e4m3: see below
 * out  (batch, seqlen_q, num_heads,    head_dim_v)
 * lse  (batch, num_heads, seqlen_q) fp32, contiguous, natural logarithm; -inf where a row sees no key (out is 0 there)
 *
 * Strides count elements, in the order (batch, seqlen, head); the last dimension is contiguous. So a transposed
 * (batch, heads, seqlen, head_dim) tensor needs no copy. A stride of a dimension of size 1 is not looked at.
 * causal is aligned bottom right: query i sees key j when j <= i + seqlen_k - seqlen_q.
 *
 * e4m3: v is stored transposed, (batch, num_heads_kv, head_dim_v, seqlen_padded), seqlen_padded being seqlen_k rounded
 * up to a multiple of 16, since 8-bit wgmma takes V^T only. v_strides count (batch, row of head_dim_v, head). Tokens are
 * contiguous, except that in each group of 16 position 4t + {0, 1} holds token 2t + {0, 1}, and position 4t + {2, 3}
 * token 8 + 2t + {0, 1} (t = 0 to 3; layout.cuh, permuted_key). Positions past seqlen_k hold 0.
 *
 * e4m3: real value = stored value x descale. Strides count elements of fp32, in the order (batch, block of
 * descale_block_size tokens, head); 0 where the dimension shares one. With descale_block_size 0 there is one block.
 * Descales are finite and not negative; those of v's blocks are all above 0, or all 0 within a head.
 */
typedef struct AttnbenchForwardArgs {
  uint32_t abi_version; /* ATTNBENCH_ABI_VERSION */
  uint32_t struct_size; /* sizeof(AttnbenchForwardArgs) */
  int32_t variant;      /* row of the variant table */
  int32_t dtype;
  int32_t batch;
  int32_t seqlen_q;
  int32_t seqlen_k;
  int32_t num_heads;
  int32_t num_heads_kv;
  int32_t head_dim;
  int32_t head_dim_v;
  int32_t causal; /* 0 or 1 */
  float softmax_scale;
  int32_t descale_block_size; /* tokens that share one descale; 0: one per head. e4m3 only, else 0 */
  int32_t out_dtype;          /* dtype, or for e4m3 ATTNBENCH_DTYPE_FP16 or _BF16 */
  float p_scale;              /* e4m3 only, else not looked at: what the weights are multiplied with before they are
                                 rounded, a power of two from 1 to ATTNBENCH_MAX_P_SCALE; out and lse are without it */
  const void* q;
  const void* k;
  const void* v;
  void* out;
  float* lse; /* may be NULL: not wanted */
  int64_t q_strides[3];
  int64_t k_strides[3];
  int64_t v_strides[3];
  int64_t out_strides[3];
  const float* q_descale; /* e4m3 only, else NULL */
  const float* k_descale;
  const float* v_descale;
  int64_t q_descale_strides[3];
  int64_t k_descale_strides[3];
  int64_t v_descale_strides[3];
  void* workspace; /* attnbench_workspace_bytes; 16-byte aligned; contents need no preparation */
  uint64_t workspace_bytes;
  void* stream; /* cudaStream_t */
} AttnbenchForwardArgs;

/* Exports of every kernel library. */
uint32_t attnbench_abi_version(void);
int32_t attnbench_variant_count(void);
/* The row, or NULL past the end. Static storage. */
const AttnbenchVariant* attnbench_describe(int32_t index);
/* Status of args without a launch or a device; reason (may be NULL) gets a sentence when it is not ATTNBENCH_OK. */
int32_t attnbench_supports(const AttnbenchForwardArgs* args, char* reason, size_t reason_bytes);
/* Bytes of device memory that attnbench_launch needs in args->workspace; 0 for arguments it would refuse. */
uint64_t attnbench_workspace_bytes(const AttnbenchForwardArgs* args);
/* Enqueues the kernel on args->stream of the current device. Never allocates, synchronises or prints, and can be
 * captured into a CUDA graph. */
int32_t attnbench_launch(const AttnbenchForwardArgs* args);
/* A readable name for any status. Static storage. */
const char* attnbench_status_string(int32_t status);

#ifdef __cplusplus
}
#endif

#endif
