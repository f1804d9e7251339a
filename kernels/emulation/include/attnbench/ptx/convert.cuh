// Emulated conversions, bit-exact; see kernels/include/attnbench/ptx/convert.cuh.
#pragma once

#include <attnbench/device.cuh>

#include <initializer_list>

namespace attnbench::ptx {

ATTNBENCH_DEVICE uint32_t pack_f16x2(float low, float high, Where where = ATTNBENCH_WHERE) {
  emulation::check_value(low, where);
  emulation::check_value(high, where);
#if defined(ATTNBENCH_VECTOR_F16)
  if (low == low && high == high) {
    return static_cast<uint32_t>(_cvtss_sh(low, 0)) | static_cast<uint32_t>(_cvtss_sh(high, 0)) << 16;
  }
#endif
  return static_cast<uint32_t>(emulation::f16_from_float(low)) | static_cast<uint32_t>(emulation::f16_from_float(high))
                                                                     << 16;
}

ATTNBENCH_DEVICE uint32_t pack_bf16x2(float low, float high, Where where = ATTNBENCH_WHERE) {
  emulation::check_value(low, where);
  emulation::check_value(high, where);
  return static_cast<uint32_t>(emulation::bf16_from_float(low)) |
         static_cast<uint32_t>(emulation::bf16_from_float(high)) << 16;
}

ATTNBENCH_DEVICE void unpack_f16x2(float& low, float& high, uint32_t packed) {
  low = emulation::f16_to_float(static_cast<uint16_t>(packed));
  high = emulation::f16_to_float(static_cast<uint16_t>(packed >> 16));
}

ATTNBENCH_DEVICE void unpack_bf16x2(float& low, float& high, uint32_t packed) {
  low = emulation::bf16_to_float(static_cast<uint16_t>(packed));
  high = emulation::bf16_to_float(static_cast<uint16_t>(packed >> 16));
}

ATTNBENCH_DEVICE uint32_t pack_e4m3x4(float e0, float e1, float e2, float e3, Where where = ATTNBENCH_WHERE) {
  for (float value : {e0, e1, e2, e3}) emulation::check_value(value, where);
  return static_cast<uint32_t>(emulation::e4m3_from_float(e0)) |
         static_cast<uint32_t>(emulation::e4m3_from_float(e1)) << 8 |
         static_cast<uint32_t>(emulation::e4m3_from_float(e2)) << 16 |
         static_cast<uint32_t>(emulation::e4m3_from_float(e3)) << 24;
}

}  // namespace attnbench::ptx
