// Online softmax over score tiles in wgmma accumulator layout (Milakov and Gimelshein 2018; FlashAttention, Dao et al.
// 2022, Algorithm 1). A thread holds two rows, r and r + 8; the four threads of a quad share them.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/polynomial.cuh>
#include <attnbench/ptx/convert.cuh>
#include <attnbench/ptx/math.cuh>
#include <attnbench/ptx/warp.cuh>

#include <limits>

namespace attnbench {

constexpr int ROWS_PER_THREAD = 2;
constexpr float LOWEST_FINITE = std::numeric_limits<float>::lowest();
constexpr float LN_2 = 0.69314718055994531f;

// A row's maximum may stay behind the true one by up to this many powers of two, which saves most rescales of the
// output (FlashAttention-4's conditional rescaling). The weights then reach 2^8, exact enough in fp16 and bf16, whose
// relative precision does not depend on the size.
// NOTE: not for e4m3, whose largest value is 448: see fwd_fp8.cu.
constexpr float RESCALE_THRESHOLD_LOG2 = 8.0f;
constexpr float RESCALE_ALWAYS = 0.0f;

// With an offset (fwd_fp8.cu) all weights are 2^offset times as large. The maximum is kept less the offset, which is
// all there is to it, since sum and LSE follow.
struct SoftmaxRows {
  float maximum[ROWS_PER_THREAD];  // scale_log2 * the row's largest score, or up to the threshold below; -inf: no key
  float sum[ROWS_PER_THREAD];      // this thread's part of sum(exp2(scale_log2 * score - maximum))
};

constexpr SoftmaxRows EMPTY_ROWS = {{NEGATIVE_INFINITY, NEGATIVE_INFINITY}, {0.0f, 0.0f}};

// Whether a row of the tile may be without any key so far; if not, the check for that is left out. Key tiles come in
// ascending order, so a row that sees any key at all sees one in the first tile.
enum class RowKeys { some, maybe_none };

// Which exponentials of a row are computed by a polynomial on the FMA pipe (polynomial.cuh): of every `Every` one,
// where all keys of the tile are seen. Every 0: none.
template <int Every, int Degree>
struct Polynomials {
  static constexpr int every = Every;
  static constexpr int degree = Degree;
  ATTNBENCH_DEVICE_MEMBER static constexpr bool at(int place) { return Every > 0 && place % Every == Every / 2; }
};
using NoPolynomials = Polynomials<0, 0>;

// A NaN among the scores makes its weight NaN, and so the sum. Of polynomials it does not: then the maximum takes it.
template <class P>
ATTNBENCH_DEVICE float row_maximum_of(float x, float y) {
  return P::every > 0 ? ptx::maximum_or_nan(x, y) : ptx::maximum(x, y);
}

// Largest of the row's scores in this thread. Two chains: one would wait on its own latency.
template <class P = NoPolynomials, int Registers>
ATTNBENCH_DEVICE float thread_row_maximum(const float (&s)[Registers], int row) {
  float even = s[2 * row];
  float odd = s[2 * row + 1];
  ATTNBENCH_UNROLL
  for (int i = 4 + 2 * row; i < Registers; i += 4) {
    even = row_maximum_of<P>(even, s[i]);
    odd = row_maximum_of<P>(odd, s[i + 1]);
  }
  return row_maximum_of<P>(even, odd);
}

template <class P = NoPolynomials>
ATTNBENCH_DEVICE float quad_maximum(float value) {
  value = row_maximum_of<P>(value, ptx::shuffle_xor(value, 1));
  return row_maximum_of<P>(value, ptx::shuffle_xor(value, 2));
}

ATTNBENCH_DEVICE float quad_sum(float value) {
  value += ptx::shuffle_xor(value, 1);
  return value + ptx::shuffle_xor(value, 2);
}

// Maxima of the first score tile; sums start at 0.
template <int Registers>
ATTNBENCH_DEVICE void start_maximum(SoftmaxRows& rows, const float (&s)[Registers], float scale_log2,
                                    float offset_log2 = 0.0f) {
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    rows.maximum[r] = quad_maximum(thread_row_maximum(s, r)) * scale_log2 - offset_log2;
    rows.sum[r] = 0.0f;
  }
}

// Takes a further tile into the maxima. factor: what the sums (done here) and the output (left to the caller) are to be
// multiplied with. A maximum that would grow by less than threshold_log2 stays, and its factor is exactly 1. Returns
// whether one of the thread's two did grow.
template <class P = NoPolynomials, int Registers>
ATTNBENCH_DEVICE bool update_maximum(SoftmaxRows& rows, const float (&s)[Registers], float scale_log2,
                                     float threshold_log2, float (&factor)[ROWS_PER_THREAD],
                                     float offset_log2 = 0.0f) {
  bool any_grew = false;
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    const float previous = rows.maximum[r];
    const float of_tile = quad_maximum<P>(thread_row_maximum<P>(s, r)) * scale_log2 - offset_log2;
    const float largest = row_maximum_of<P>(previous, of_tile);
    // From -inf it grows by +inf, which gives factor 0, or, still without a key, by NaN, which compares false. With
    // polynomials every row has seen a key, and NaN comes from a score: it makes factor and sum NaN.
    const float growth = largest - previous;
    const bool grew = P::every > 0 ? !(growth < threshold_log2) : growth >= threshold_log2;
    factor[r] = ptx::ex2(grew ? -growth : 0.0f);
    rows.maximum[r] = grew ? largest : previous;
    rows.sum[r] *= factor[r];
    any_grew = any_grew || grew;
  }
  return any_grew;
}

// 2^x, the weight at place `place` of the thread's part of a row.
template <class P>
ATTNBENCH_DEVICE float weight(float x, int place) {
  if constexpr (P::every > 0) {
    if (P::at(place)) return polynomial_exp2<P::degree>(x);
  }
  return ptx::ex2(x);
}

// Turns scores into weights exp2(scale_log2 * s - maximum) and adds them to the row sums.
template <RowKeys Keys, class P = NoPolynomials, int Registers>
ATTNBENCH_DEVICE void exponentiate(SoftmaxRows& rows, float (&s)[Registers], float scale_log2) {
  float maximum[ROWS_PER_THREAD];
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    // -inf - -inf would be NaN; with a finite number instead the weights of a row without keys are 0.
    maximum[r] = Keys == RowKeys::maybe_none ? ptx::maximum(rows.maximum[r], LOWEST_FINITE) : rows.maximum[r];
  }
  ATTNBENCH_UNROLL
  for (int i = 0; i < Registers; i += 4) {
    ATTNBENCH_UNROLL
    for (int j = 0; j < 4; ++j) {
      s[i + j] = weight<P>(ptx::multiply_add(s[i + j], scale_log2, -maximum[j / 2]), i / 2 + j % 2);
    }
  }
  ATTNBENCH_UNROLL
  for (int i = 0; i < Registers; i += 4) {
    ATTNBENCH_UNROLL
    for (int j = 0; j < 4; ++j) rows.sum[j / 2] += s[i + j];
  }
}

template <int Registers>
ATTNBENCH_DEVICE void clear(float (&o)[Registers]) {
  ATTNBENCH_UNROLL
  for (int i = 0; i < Registers; ++i) o[i] = 0.0f;
}

// Multiplies each row of an output accumulator.
template <int Registers>
ATTNBENCH_DEVICE void scale_rows(float (&o)[Registers], const float (&factor)[ROWS_PER_THREAD]) {
  ATTNBENCH_UNROLL
  for (int i = 0; i < Registers; ++i) o[i] *= factor[i >> 1 & 1];
}

template <Dtype T>
ATTNBENCH_DEVICE uint32_t pack_pair(float low, float high) {
  static_assert(T == Dtype::fp16 || T == Dtype::bf16, "16-bit types");
  return T == Dtype::fp16 ? ptx::pack_f16x2(low, high) : ptx::pack_bf16x2(low, high);
}

// Rounds a tile of weights to 16 bits, which makes it the A operand of the next product: weights[step] is k-step
// `step` (16 keys). No exchange between threads is needed (layout.cuh, a_fragment_source).
template <Dtype T, int Steps>
ATTNBENCH_DEVICE void pack_weights(uint32_t (&weights)[Steps][4], const float (&p)[Steps * 8]) {
  ATTNBENCH_UNROLL
  for (int step = 0; step < Steps; ++step) {
    ATTNBENCH_UNROLL
    for (int i = 0; i < 4; ++i) {
      weights[step][i] = pack_pair<T>(p[a_fragment_source(step, i, 0)], p[a_fragment_source(step, i, 1)]);
    }
  }
}

// The same for e4m3, k-steps of 32 keys; the values' keys are permuted accordingly (permuted_key).
template <int Steps>
ATTNBENCH_DEVICE void pack_weights_8bit(uint32_t (&weights)[Steps][4], const float (&p)[Steps * 16]) {
  ATTNBENCH_UNROLL
  for (int step = 0; step < Steps; ++step) {
    ATTNBENCH_UNROLL
    for (int i = 0; i < 4; ++i) {
      weights[step][i] =
          ptx::pack_e4m3x4(p[a_fragment_source_8bit(step, i, 0)], p[a_fragment_source_8bit(step, i, 1)],
                           p[a_fragment_source_8bit(step, i, 2)], p[a_fragment_source_8bit(step, i, 3)]);
    }
  }
}

// Divides the output by the row sums, times `scale`, and gives the rows' LSE (natural logarithm). A row without keys
// gets output 0 and LSE -inf.
template <int Registers>
ATTNBENCH_DEVICE void normalize(const SoftmaxRows& rows, float (&o)[Registers], float (&lse)[ROWS_PER_THREAD],
                                float scale = 1.0f) {
  float inverse[ROWS_PER_THREAD];
  ATTNBENCH_UNROLL
  for (int r = 0; r < ROWS_PER_THREAD; ++r) {
    const float sum = quad_sum(rows.sum[r]);
    inverse[r] = scale * ptx::reciprocal(sum);
    // Of a row without keys both are -inf. NOTE: no test of the maximum: it passes over NaN, which is in the sum.
    lse[r] = (rows.maximum[r] + ptx::lg2(sum)) * LN_2;
  }
  scale_rows(o, inverse);
  // NOTE: not by a factor of 0: the accumulator may hold 0 * NaN from a value row that this query does not see.
  if (ptx::any_sync(lse[0] == NEGATIVE_INFINITY || lse[1] == NEGATIVE_INFINITY)) {
    ATTNBENCH_UNROLL
    for (int i = 0; i < Registers; ++i) {
      if (lse[i >> 1 & 1] == NEGATIVE_INFINITY) o[i] = 0.0f;
    }
  }
}

}  // namespace attnbench
