// Conversions between fp32 and packed narrow types (PTX ISA, "cvt"), to narrow ones round to nearest even. The first
// value stands in the lowest bits, which is the lower column in every wgmma fragment.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE uint32_t pack_f16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

ATTNBENCH_DEVICE uint32_t pack_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Exact; the lower half goes to the first argument.
ATTNBENCH_DEVICE void unpack_f16x2(float& low, float& high, uint32_t packed) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.f32.f16 %0, low;\n"
      "cvt.f32.f16 %1, high;\n"
      "}"
      : "=f"(low), "=f"(high)
      : "r"(packed));
}

// Exact: bf16 is the upper half of an fp32.
ATTNBENCH_DEVICE void unpack_bf16x2(float& low, float& high, uint32_t packed) {
  low = __uint_as_float(packed << 16);
  high = __uint_as_float(packed & 0xffff0000u);
}

// Saturates to +-448, infinity included (.satfinite); NaN stays NaN.
ATTNBENCH_DEVICE uint32_t pack_e4m3x4(float e0, float e1, float e2, float e3) {
  uint32_t packed;
  asm("{\n"
      ".reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n"
      "}"
      : "=r"(packed)
      : "f"(e0), "f"(e1), "f"(e2), "f"(e3));
  return packed;
}

}  // namespace attnbench::ptx
