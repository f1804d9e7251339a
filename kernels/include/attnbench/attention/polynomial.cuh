// exp2 on the FMA pipe. The multi-function unit gives 16 exponentials a clock, which at head_dim 64, and in 8 bits at
// head_dim 128, is fewer than the tensor cores ask for; a share of them by a polynomial balances the pipes
// (FlashAttention-4). Cody and Waite's range reduction (Software Manual for the Elementary Functions, 1980, chapter 6):
// 2^x = 2^n * 2^f, n the integer nearest to x, f in [-1/2, 1/2].
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/math.cuh>

namespace attnbench {

// Coefficients of 1, f, f^2, ...: the smallest largest relative error over [-1/2, 1/2] with the constant 1, so that the
// weight of a row's maximum, at f = 0, stays exact. Largest relative error, in fp32: 1.0e-4 and 2.9e-6; an ulp of fp16
// is 9.8e-4 to 4.9e-4, of bf16 eight times as large.
template <int Degree>
ATTNBENCH_CONSTEXPR float exp2_coefficient(int power) {
  static_assert(Degree == 3 || Degree == 4, "there are coefficients for these");
  constexpr float degree_3[] = {1.0f, 0x1.62f5fap-1f, 0x1.f00c4ep-3f, 0x1.c2a25cp-5f};
  constexpr float degree_4[] = {1.0f, 0x1.62e12ap-1f, 0x1.ec0382p-3f, 0x1.c9fd1ep-5f, 0x1.3a007ap-7f};
  return Degree == 3 ? degree_3[power] : degree_4[power];
}

// Adding it rounds to an integer, which then stands in the lowest bits of the sum.
constexpr float ROUND_TO_INTEGER = 0x1.8p23f;
// From here on the weight is exactly 0: the exponent field of 2^n, n = -127, is.
constexpr float SMALLEST_EXPONENT = -127.0f;

// 2^x for x < 128; 0 for x <= -127, -inf included.
// NOTE: of a NaN it makes 0. Who calls it must see to it that a NaN shows elsewhere (update_maximum).
template <int Degree>
ATTNBENCH_DEVICE float polynomial_exp2(float x) {
  const float bounded = ptx::maximum(x, SMALLEST_EXPONENT);
  const float shifted = bounded + ROUND_TO_INTEGER;
  const float f = bounded - (shifted - ROUND_TO_INTEGER);
  float sum = exp2_coefficient<Degree>(Degree);
  ATTNBENCH_UNROLL
  for (int power = Degree - 1; power >= 0; --power) {
    sum = ptx::multiply_add(sum, f, exp2_coefficient<Degree>(power));
  }
  return ptx::add_to_exponent(sum, shifted);
}

}  // namespace attnbench
