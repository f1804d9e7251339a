// What the quantize kernels get at run time, and how the host makes it from the checked arguments of quantize_abi.h.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/host.h>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/quantize/quantize_validate.h>

#include <cstdint>

namespace attnbench {

// Divides numbers from 0 to 2^31 - 1 by one that is known to the host: n * multiplier / 2^(32 + shift), with a
// multiplier that is 2^(31 + bits) / divisor rounded up, bits those of divisor - 1 (Granlund and Montgomery 1994,
// theorem 4.2). A division by an unknown number costs a kernel some 20 instructions, and registers that live through
// its loop.
struct Divisor {
  int32_t divisor;
  uint32_t multiplier;
  int32_t shift;

  static Divisor of(int32_t divisor) {
    int bits = 0;
    while ((int64_t{1} << bits) < divisor) ++bits;
    const uint64_t power = uint64_t{1} << (31 + bits);
    return {divisor, static_cast<uint32_t>((power + uint32_t(divisor) - 1) / uint32_t(divisor)), bits - 1};
  }

  ATTNBENCH_DEVICE_MEMBER int quotient(int n) const {
    return divisor == 1 ? n : int((uint64_t(uint32_t(n)) * multiplier >> 32) >> shift);
  }
};

// Where the descale of a token of a head stands:
// batch * batch_stride + token / rows * block_stride + head * head_stride.
struct Groups {
  Divisor rows;
  int64_t batch_stride, block_stride, head_stride;
};

// One of q, k, v. amax: a word for each group of the pass before, or nullptr.
struct QuantizeOperand {
  uint8_t* out;
  float* descale;
  uint32_t* amax;
  int seqlen;
  int heads;
  int tiles;  // of QUANTIZE_TILE tokens of a head
  Divisor by_heads, by_blocks;  // blocks: tiles of a head
  Groups groups;
};

enum Operand { QUERY, KEY, VALUE, OPERANDS };

// Where a group's largest magnitude comes from; nowhere: the numbers are stored as they are.
enum class AmaxFrom : int { nowhere, tile, workspace };

struct QuantizeParams {
  QuantizeOperand operand[OPERANDS];
  AmaxFrom amax_from;
  int hadamard;
  int group_warps;  // warps of a CTA that share a group, a power of two
  uint32_t signs[8];
};

inline Groups groups_of(const AttnbenchQuantizeArgs& args, int64_t seqlen, int64_t heads) {
  switch (args.scaling) {
    case ATTNBENCH_SCALING_HEAD: return {Divisor::of(INT32_MAX), heads, 0, 1};
    case ATTNBENCH_SCALING_BLOCK: {
      return {Divisor::of(args.block_size), ceil_quotient(seqlen, args.block_size) * heads, heads, 1};
    }
    default: return {Divisor::of(INT32_MAX), 0, 0, 0};
  }
}

inline QuantizeOperand quantize_operand(const AttnbenchQuantizeArgs& args, void* out, float* descale, int seqlen,
                                        int heads) {
  QuantizeOperand operand;
  operand.out = static_cast<uint8_t*>(out);
  operand.descale = descale;
  operand.amax = nullptr;
  operand.seqlen = seqlen;
  operand.heads = heads;
  operand.tiles = static_cast<int>(args.batch * heads * ceil_quotient(seqlen, QUANTIZE_TILE));
  operand.by_heads = Divisor::of(heads);
  operand.by_blocks = Divisor::of(static_cast<int32_t>(ceil_quotient(seqlen, QUANTIZE_TILE)));
  operand.groups = groups_of(args, seqlen, heads);
  return operand;
}

// warps: of a CTA.
inline QuantizeParams quantize_params(const AttnbenchQuantizeArgs& args, int warps) {
  QuantizeParams params;
  params.operand[QUERY] = quantize_operand(args, args.q8, args.q_descale, args.seqlen_q, args.num_heads);
  params.operand[KEY] = quantize_operand(args, args.k8, args.k_descale, args.seqlen_k, args.num_heads_kv);
  params.operand[VALUE] = quantize_operand(args, args.v8t, args.v_descale, args.seqlen_k, args.num_heads_kv);
  params.hadamard = args.hadamard;
  for (int i = 0; i < 8; ++i) params.signs[i] = args.hadamard ? args.signs[i] : 0;
  params.group_warps = warps;
  params.amax_from = args.scaling == ATTNBENCH_SCALING_NONE ? AmaxFrom::nowhere : AmaxFrom::tile;
  if (needs_two_passes(args)) {
    params.amax_from = AmaxFrom::workspace;
    uint32_t* amax = static_cast<uint32_t*>(args.workspace);
    for (QuantizeOperand& operand : params.operand) {
      operand.amax = amax;
      amax += group_count(args, operand.seqlen, operand.heads);
    }
  } else if (args.scaling == ATTNBENCH_SCALING_BLOCK) {
    params.group_warps = static_cast<int>(warps * args.block_size / QUANTIZE_TILE);
  }
  return params;
}

// Maps for copies of one tile's tokens by the 64 columns of a 128-byte panel.
struct QuantizeMaps {
  ptx::TensorMap operand[OPERANDS];
};

inline int32_t encode_quantize_maps(const AttnbenchQuantizeArgs& args, QuantizeMaps* maps) {
  const Dtype dtype = static_cast<Dtype>(args.dtype);
  const void* const data[OPERANDS] = {args.q, args.k, args.v};
  const int64_t* const strides[OPERANDS] = {args.q_strides, args.k_strides, args.v_strides};
  const int box[4] = {panel_columns(dtype), int(QUANTIZE_TILE), 1, 1};
  for (int i = 0; i < OPERANDS; ++i) {
    const int seqlen = i == QUERY ? args.seqlen_q : args.seqlen_k;
    const int heads = i == QUERY ? args.num_heads : args.num_heads_kv;
    // From the inside, where quantize_abi.h has (batch, seqlen, head).
    const int64_t sizes[4] = {args.head_dim, seqlen, heads, args.batch};
    const int64_t steps[3] = {strides[i][1], strides[i][2], strides[i][0]};
    if (int32_t status = encode_tensor_map(&maps->operand[i], dtype, data[i], sizes, steps, box)) return status;
  }
  return ATTNBENCH_OK;
}

}  // namespace attnbench
