// Conversions from fp32 with packing, round to nearest even (PTX ISA, "cvt"). The first argument goes to the lowest
// bits, which is the lower column in every wgmma fragment.
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
