// Emulated approximate functions: correctly rounded or nearly so, with the flushing of subnormals that .ftz means; see
// kernels/include/attnbench/ptx/math.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE float flush_subnormal(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

ATTNBENCH_DEVICE float ex2(float x) {
  ++emulation::engine().counted.counts.exponentials;
  return flush_subnormal(emulation::exp2_of(x));
}
ATTNBENCH_DEVICE float lg2(float x) { return log2f(flush_subnormal(x)); }
ATTNBENCH_DEVICE float reciprocal(float x) { return flush_subnormal(1.0f / flush_subnormal(x)); }
ATTNBENCH_DEVICE float maximum(float x, float y) { return x > y || y != y ? x : y; }
ATTNBENCH_DEVICE float maximum_or_nan(float x, float y) { return x != x || y != y ? NAN : maximum(x, y); }
ATTNBENCH_DEVICE float magnitude(float x) { return std::fabs(x); }
ATTNBENCH_DEVICE float divide(float x, float y) { return x / y; }
ATTNBENCH_DEVICE uint32_t shift_left(uint32_t x, uint32_t bits) { return bits < 32 ? x << bits : 0; }
ATTNBENCH_DEVICE float add_to_exponent(float x, float holder) {
  uint32_t bits, exponent;
  std::memcpy(&bits, &x, sizeof bits);
  std::memcpy(&exponent, &holder, sizeof exponent);
  bits += exponent << 23;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
ATTNBENCH_DEVICE float multiply_add(float x, float y, float z) { return std::fma(x, y, z); }

}  // namespace attnbench::ptx
