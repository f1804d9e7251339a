// What every forward kernel gets at run time, and how the host makes it from the checked arguments of abi.h.
#pragma once

#include <attnbench/abi.h>
#include <attnbench/host.h>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/tma.cuh>

#include <cmath>
#include <cstdint>

namespace attnbench {

// Descales of one operand (abi.h). Strides count elements.
struct Descales {
  const float* data;
  int64_t batch_stride, head_stride;
  int block_stride;
};

// Run-time problem. Lengths count tokens.
struct ForwardParams {
  void* out;               // 16-bit elements, for kernels that store without TMA
  int64_t out_strides[3];  // elements, (batch, seqlen, head)
  float* lse;              // (batch, num_heads, seqlen_q), or nullptr
  int batch;
  int seqlen_q;
  int seqlen_k;
  int num_heads;
  int heads_per_kv_head;  // num_heads / num_heads_kv
  int heads_per_section;  // heads that the scheduler keeps in flight together
  int* tile_counter;      // 0 at launch, or nullptr: tiles are dealt out in turn
  float scale_log2;       // softmax_scale * log2(e): exp(softmax_scale * s) = exp2(scale_log2 * s)
  // e4m3 only:
  Descales q_descales, k_descales, v_descales;
  int descale_block_log2;  // tokens of a block: 2^this; WHOLE_HEAD: all of them
  float offset_log2;       // weights are multiplied by 2^this before they are rounded
  bool out_fp16;           // else bf16
};

// A shift that leaves nothing of any token's number: block 0.
constexpr int WHOLE_HEAD = 31;

constexpr float LOG2_E = 1.44269504088896341f;

// Keys and values of the heads in flight should stay in L2 (50 MB on H100, 60 MB on H200, two halves that each hold
// copies of the other's hot lines). To be tuned on hardware.
constexpr int64_t SECTION_BYTES = int64_t{32} << 20;

// Causal tiles of one head differ in length, so several heads are in flight together (longest tiles of all first): as
// many as fit. Without a mask the tiles of a head run one after the other, which keeps one head's keys hot.
inline int heads_per_section(const AttnbenchForwardArgs& args) {
  if (!args.causal) return 1;
  const int64_t kv_bytes = int64_t{args.seqlen_k} * (args.head_dim + args.head_dim_v) * element_bytes(args.dtype);
  const int64_t kv_heads = SECTION_BYTES / kv_bytes;
  const int64_t heads = (kv_heads < 1 ? 1 : kv_heads) * (args.num_heads / args.num_heads_kv);
  const int64_t all_heads = int64_t{args.num_heads} * args.batch;
  return static_cast<int>(heads < all_heads ? heads : all_heads);
}

inline Descales descales_of(const float* data, const int64_t strides[3]) {
  return {data, strides[0], strides[2], static_cast<int>(strides[1])};
}

// The exponent of a power of two (validate.h has seen to that).
inline int exact_log2(float power) { return std::ilogb(power); }

inline ForwardParams forward_params(const AttnbenchForwardArgs& args) {
  ForwardParams params = {};
  params.out = args.out;
  for (int i = 0; i < 3; ++i) params.out_strides[i] = args.out_strides[i];
  params.lse = args.lse;
  params.batch = args.batch;
  params.seqlen_q = args.seqlen_q;
  params.seqlen_k = args.seqlen_k;
  params.num_heads = args.num_heads;
  params.heads_per_kv_head = args.num_heads / args.num_heads_kv;
  params.heads_per_section = heads_per_section(args);
  params.tile_counter = nullptr;
  params.scale_log2 = args.softmax_scale * LOG2_E;
  if (args.dtype == ATTNBENCH_DTYPE_E4M3) {
    params.q_descales = descales_of(args.q_descale, args.q_descale_strides);
    params.k_descales = descales_of(args.k_descale, args.k_descale_strides);
    params.v_descales = descales_of(args.v_descale, args.v_descale_strides);
    params.descale_block_log2 = args.descale_block_size == 0 ? WHOLE_HEAD : exact_log2(float(args.descale_block_size));
    params.offset_log2 = float(exact_log2(args.p_scale));
    params.out_fp16 = args.out_dtype == ATTNBENCH_DTYPE_FP16;
  }
  return params;
}

// One map per operand, boxes of 64 columns (one 128-byte panel of a 16-bit type) by a kernel's own number of rows.
struct ForwardMaps {
  ptx::TensorMap q, k, v, out;
};

// abi.h gives strides as (batch, seqlen, head); a tensor map counts from the inside: head_dim, seqlen, head, batch.
// columns x rows: head_dim x seqlen, or the reverse for a transposed tensor.
inline int32_t encode_operand(ptx::TensorMap* map, Dtype dtype, const void* data, int64_t columns, int64_t rows,
                              int64_t heads, int64_t batch, const int64_t abi_strides[3], int box_rows) {
  const int64_t sizes[4] = {columns, rows, heads, batch};
  const int64_t strides[3] = {abi_strides[1], abi_strides[2], abi_strides[0]};
  const int box[4] = {panel_columns(dtype), box_rows, 1, 1};
  return encode_tensor_map(map, dtype, data, sizes, strides, box);
}

// e4m3 values come as V^T, all of its rows in one copy.
inline int32_t encode_values(ptx::TensorMap* map, const AttnbenchForwardArgs& args, int kv_rows) {
  const Dtype dtype = static_cast<Dtype>(args.dtype);
  const bool transposed = dtype == Dtype::e4m3;
  const int64_t columns = transposed ? padded_tokens(args.seqlen_k) : args.head_dim_v;
  const int64_t rows = transposed ? args.head_dim_v : args.seqlen_k;
  return encode_operand(map, dtype, args.v, columns, rows, args.num_heads_kv, args.batch, args.v_strides,
                        transposed ? args.head_dim_v : kv_rows);
}

// q_rows, kv_rows, out_rows: sequence rows of one copy (at most 256, the limit of a box dimension).
inline int32_t encode_forward_maps(const AttnbenchForwardArgs& args, int q_rows, int kv_rows, int out_rows,
                                   ForwardMaps* maps) {
  const Dtype dtype = static_cast<Dtype>(args.dtype);
  if (int32_t status = encode_operand(&maps->q, dtype, args.q, args.head_dim, args.seqlen_q, args.num_heads, args.batch,
                                      args.q_strides, q_rows)) {
    return status;
  }
  if (int32_t status = encode_operand(&maps->k, dtype, args.k, args.head_dim, args.seqlen_k, args.num_heads_kv,
                                      args.batch, args.k_strides, kv_rows)) {
    return status;
  }
  if (int32_t status = encode_values(&maps->v, args, kv_rows)) return status;
  return encode_operand(&maps->out, static_cast<Dtype>(args.out_dtype), args.out, args.head_dim_v, args.seqlen_q,
                        args.num_heads, args.batch, args.out_strides, out_rows);
}

}  // namespace attnbench
