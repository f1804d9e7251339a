// fp32 functions. The approximate ones are the multi-function unit's (PTX ISA, "ex2", "lg2", "rcp"); they flush
// subnormals to zero: without .ftz each ex2 costs three more instructions for range handling.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// 2^x, relative error at most 2^-22; ex2(-inf) = +0.
ATTNBENCH_DEVICE float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// log2(x); lg2(+0) = -inf.
ATTNBENCH_DEVICE float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x, at most 1 ulp; reciprocal(+0) = +inf.
ATTNBENCH_DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The larger of both; where one is NaN, the other.
ATTNBENCH_DEVICE float maximum(float x, float y) { return fmaxf(x, y); }

// The larger of both; NaN where one is NaN.
ATTNBENCH_DEVICE float maximum_or_nan(float x, float y) {
  float z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

ATTNBENCH_DEVICE float magnitude(float x) { return fabsf(x); }

// x / y, rounded to nearest; subnormals as IEEE 754 has them.
ATTNBENCH_DEVICE float divide(float x, float y) { return __fdiv_rn(x, y); }

// x << bits; 0 from 32 bits on, which C++ leaves undefined (PTX ISA, "shl").
ATTNBENCH_DEVICE uint32_t shift_left(uint32_t x, uint32_t bits) {
  uint32_t y;
  asm("shl.b32 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(bits));
  return y;
}

// x * 2^n, where the lowest nine bits of `holder` are the integer n and the result is normal.
ATTNBENCH_DEVICE float add_to_exponent(float x, float holder) {
  return __uint_as_float((__float_as_uint(holder) << 23) + __float_as_uint(x));
}

// x * y + z, rounded once.
ATTNBENCH_DEVICE float multiply_add(float x, float y, float z) { return __fmaf_rn(x, y, z); }

}  // namespace attnbench::ptx
