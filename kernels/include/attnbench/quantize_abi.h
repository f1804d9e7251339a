/* The C interface of the quantize kernel's library (kernels/quantize.cu): fp16 or bf16 q, k, v to e4m3 with fp32
 * descales, in the layouts that the e4m3 attention kernels read.
 *
 * Plain C; status codes and dtypes are those of abi.h. The emulated build of the same source exports the same symbols
 * and takes host pointers. Every struct here is mirrored in attnbench/hopper/library.py; tests/hopper compare the two
 * field by field. A change of any struct, code or meaning raises ATTNBENCH_QUANTIZE_ABI_VERSION.
 */
#ifndef ATTNBENCH_QUANTIZE_ABI_H
#define ATTNBENCH_QUANTIZE_ABI_H

#include <attnbench/abi.h>

#define ATTNBENCH_QUANTIZE_ABI_VERSION 1u

#ifdef __cplusplus
extern "C" {
#endif

/* What shares one descale: nothing is scaled, the whole tensor, a head, block_size tokens of a head. */
enum {
  ATTNBENCH_SCALING_NONE = 0,
  ATTNBENCH_SCALING_TENSOR = 1,
  ATTNBENCH_SCALING_HEAD = 2,
  ATTNBENCH_SCALING_BLOCK = 3
};

/* Tokens that one CTA quantizes. block_size is 32, 64 or a multiple of this. */
#define ATTNBENCH_QUANTIZE_TILE 128
/* Tokens of v that are permuted among themselves; the length of v8t's rows is padded to a multiple. */
#define ATTNBENCH_VALUE_GROUP 16

/* One row of the library's table: the kernels that quantize one dtype and head_dim. */
typedef struct AttnbenchQuantizeVariant {
  const char* kernel;          /* symbol of the __global__ function that writes */
  const char* amax_kernel;     /* symbol of the one that finds the largest magnitudes, where that needs a pass */
  int32_t dtype;               /* of q, k, v: ATTNBENCH_DTYPE_FP16 or ATTNBENCH_DTYPE_BF16 */
  int32_t head_dim;
  int32_t threads;             /* of a CTA */
  int32_t shared_memory_bytes; /* dynamic, of each of the two */
  int32_t amax_shared_memory_bytes;
} AttnbenchQuantizeVariant;

/* One quantization of q, k and v.
 *
 * q          (batch, seqlen_q, num_heads,    head_dim) dtype   strides in elements, (batch, seqlen, head), multiples of
 * k, v       (batch, seqlen_k, num_heads_kv, head_dim) dtype     8; the last dimension is contiguous
 * q8         (batch, seqlen_q, num_heads,    head_dim) e4m3    contiguous, as all that follow
 * k8         (batch, seqlen_k, num_heads_kv, head_dim) e4m3
 * v8t        (batch, num_heads_kv, head_dim, padded)   e4m3    padded: seqlen_k rounded up to a multiple of 16.
 *              Of every 16 tokens, position 4 t + {0, 1} holds token 2 t + {0, 1} and position 4 t + {2, 3} token
 *              8 + 2 t + {0, 1}, t = 0 to 3: the order in which an accumulator's registers pack into the A operand of
 *              an e4m3 wgmma. Positions past seqlen_k hold 0.
 * q_descale  fp32: one value (none, tensor), (batch, heads) for head, (batch, ceil(seqlen / block_size), heads) for
 *              block; k_descale and v_descale alike
 *
 * real value = stored value x descale. The numbers are those of attnbench/reference/quantize.py, bit for bit.
 * hadamard: q and k are first multiplied by diag(signs) H / sqrt(head_dim), v never is; bit i % 32 of signs[i / 32]
 * set: column i is negated.
 */
typedef struct AttnbenchQuantizeArgs {
  uint32_t abi_version; /* ATTNBENCH_QUANTIZE_ABI_VERSION */
  uint32_t struct_size; /* sizeof(AttnbenchQuantizeArgs) */
  int32_t dtype;
  int32_t batch;
  int32_t seqlen_q;
  int32_t seqlen_k;
  int32_t num_heads;
  int32_t num_heads_kv;
  int32_t head_dim;
  int32_t scaling;    /* ATTNBENCH_SCALING_* */
  int32_t block_size; /* looked at for ATTNBENCH_SCALING_BLOCK only */
  int32_t hadamard;   /* 0 or 1 */
  uint32_t signs[8];  /* looked at with hadamard only */
  const void* q;
  const void* k;
  const void* v;
  int64_t q_strides[3];
  int64_t k_strides[3];
  int64_t v_strides[3];
  void* q8;
  void* k8;
  void* v8t;
  float* q_descale;
  float* k_descale;
  float* v_descale;
  void* workspace; /* attnbench_quantize_workspace_bytes; 16-byte aligned; contents need no preparation */
  uint64_t workspace_bytes;
  void* stream; /* cudaStream_t */
} AttnbenchQuantizeArgs;

uint32_t attnbench_quantize_abi_version(void);
int32_t attnbench_quantize_variant_count(void);
/* The row, or NULL past the end. Static storage. */
const AttnbenchQuantizeVariant* attnbench_quantize_describe(int32_t index);
/* Status of args without a launch or a device; reason (may be NULL) gets a sentence when it is not ATTNBENCH_OK. */
int32_t attnbench_quantize_supports(const AttnbenchQuantizeArgs* args, char* reason, size_t reason_bytes);
/* Bytes of device memory that a launch needs in args->workspace; 0 for arguments it would refuse. */
uint64_t attnbench_quantize_workspace_bytes(const AttnbenchQuantizeArgs* args);
/* Enqueues the kernels on args->stream of the current device. Never allocates, synchronises or prints, and can be
 * captured into a CUDA graph. */
int32_t attnbench_quantize_launch(const AttnbenchQuantizeArgs* args);
/* A readable name for any status. Static storage. */
const char* attnbench_status_string(int32_t status);

#ifdef __cplusplus
}
#endif

#endif
