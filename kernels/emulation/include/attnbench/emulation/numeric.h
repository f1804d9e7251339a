// Bit-exact fp16, bf16 and e4m3 (PTX ISA, "cvt"): round to nearest even; e4m3 saturates to +-448 (.satfinite).
// Every NaN becomes the canonical one of the narrow type (0x7fff, 0x7fff, 0x7f).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__F16C__) && defined(__AVX2__)
#include <immintrin.h>
#define ATTNBENCH_VECTOR_F16 1
#endif

namespace attnbench::emulation {

enum class Element { f16, bf16, e4m3 };

constexpr int element_bytes(Element e) { return e == Element::e4m3 ? 1 : 2; }

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds `significand` (with its leading one) right by `shift` bits to nearest, ties to even.
inline uint32_t round_shift(uint32_t significand, int shift) {
  if (shift > 25) return 0;
  const uint32_t half = 1u << (shift - 1), low = significand & ((1u << shift) - 1), kept = significand >> shift;
  return kept + (low > half || (low == half && (kept & 1)));
}

inline uint16_t f16_from_float(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x47800000u) return sign | 0x7c00;  // 2^16 and above; what rounds up to it carries below
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
  if (exponent < -14)
    return static_cast<uint16_t>(sign | round_shift(significand, -1 - exponent));  // subnormal: step 2^-24
  return static_cast<uint16_t>(sign | (round_shift(significand, 13) + (static_cast<uint32_t>(exponent + 14) << 10)));
}

inline float f16_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31) return float_of(sign | 0x7f800000u | (fraction << 13));
  return float_of(sign | ((exponent + 112) << 23) | (fraction << 13));
}

// 2^x, correctly rounded but for about one argument in 30,000, which is then the neighbour: the whole part of x is an
// exponent, and of the rest a polynomial of degree 8 (Chebyshev interpolation on [-1/2, 1/2] by relative error) is within
// 2^-40. NOTE: without a branch or a table, so that a compiler computes several at a time.
inline float exp2_of(float x) {
  constexpr double WHOLE = 0x1.8p52;  // added to a number it leaves the nearest whole one in the lowest bits
  float limited = x < -160.0f ? -160.0f : x;  // beyond: 0 and infinity as a float
  limited = limited > 130.0f ? 130.0f : limited;
  const double moved = static_cast<double>(limited) + WHOLE, rest = static_cast<double>(limited) - (moved - WHOLE);
  double sum = 1.3171389774595328e-06;
  sum = sum * rest + 1.5309698322246666e-05;
  sum = sum * rest + 1.5403873958199626e-04;
  sum = sum * rest + 1.3333452232423566e-03;
  sum = sum * rest + 9.618128508480726e-03;
  sum = sum * rest + 5.5504109391301557e-02;
  sum = sum * rest + 2.402265069904937e-01;
  sum = sum * rest + 6.931471805465795e-01;
  sum = sum * rest + 0.9999999999997499;
  uint64_t bits;
  std::memcpy(&bits, &moved, sizeof bits);
  bits = (bits << 52) + 0x3ff0000000000000u;  // 2^whole
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return static_cast<float>(sum * power);
}

inline uint16_t bf16_from_float(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float bf16_to_float(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }

// e4m3: bias 7, no infinity, 0x7f is NaN, largest finite 0x7e = 448.
inline uint8_t e4m3_from_float(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (magnitude > 0x7f800000u) return 0x7f;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
  if (exponent > 8) return sign | 0x7e;
  uint32_t rounded;
  if (exponent < -6) {
    rounded = round_shift(significand, 14 - exponent);  // subnormal: step 2^-9
  } else {
    rounded = round_shift(significand, 20) + (static_cast<uint32_t>(exponent + 6) << 3);
  }
  return static_cast<uint8_t>(sign | (rounded > 0x7e ? 0x7e : rounded));
}

inline float e4m3_to_float(uint8_t q) {
  const uint32_t exponent = (q >> 3) & 15u, fraction = q & 7u;
  if ((q & 0x7f) == 0x7f) return float_of(0x7fc00000u | (static_cast<uint32_t>(q & 0x80u) << 24));
  const float magnitude = exponent == 0 ? static_cast<float>(fraction) * 0x1p-9f
                                        : std::ldexp(static_cast<float>(8 + fraction), static_cast<int>(exponent) - 10);
  return (q & 0x80) ? -magnitude : magnitude;
}

struct E4m3Table {
  float value[256];
  E4m3Table() {
    for (int i = 0; i < 256; ++i) value[i] = e4m3_to_float(static_cast<uint8_t>(i));
  }
};

// Widens the 16 bytes at `source` to 8 (16-bit types) or 16 (e4m3) floats.
inline void widen_chunk(Element element, const unsigned char* source, float* out) {
  if (element == Element::e4m3) {
    static const E4m3Table table;
    for (int i = 0; i < 16; ++i) out[i] = table.value[source[i]];
    return;
  }
#if defined(ATTNBENCH_VECTOR_F16)
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  if (element == Element::f16) {
    _mm256_storeu_ps(out, _mm256_cvtph_ps(packed));
  } else {
    _mm256_storeu_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16)));
  }
#else
  uint16_t packed[8];
  std::memcpy(packed, source, sizeof packed);
  for (int i = 0; i < 8; ++i) out[i] = element == Element::f16 ? f16_to_float(packed[i]) : bf16_to_float(packed[i]);
#endif
}

// Widens eight chunks of a 16-bit type and transposes them: out[k * 8 + i] is element k of rows[i].
inline void widen_transposed(Element element, const unsigned char* const (&rows)[8], float* out) {
#if defined(ATTNBENCH_VECTOR_F16)
  __m128i row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i]));
  for (int i = 0; i < 8; i += 2) {  // pair[i]: k 0 to 3 of rows i and i + 1 side by side; pair[i + 1]: k 4 to 7
    pair[i] = _mm_unpacklo_epi16(row[i], row[i + 1]);
    pair[i + 1] = _mm_unpackhi_epi16(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // quad[i + j]: k 2j and 2j + 1 of rows i to i + 3
    quad[i] = _mm_unpacklo_epi32(pair[i], pair[i + 2]);
    quad[i + 1] = _mm_unpackhi_epi32(pair[i], pair[i + 2]);
    quad[i + 2] = _mm_unpacklo_epi32(pair[i + 1], pair[i + 3]);
    quad[i + 3] = _mm_unpackhi_epi32(pair[i + 1], pair[i + 3]);
  }
  const auto put = [&](int k, __m128i packed) {
    const __m256 wide = element == Element::f16
                            ? _mm256_cvtph_ps(packed)
                            : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16));
    _mm256_storeu_ps(out + k * 8, wide);
  };
  for (int j = 0; j < 4; ++j) {
    put(2 * j, _mm_unpacklo_epi64(quad[j], quad[4 + j]));
    put(2 * j + 1, _mm_unpackhi_epi64(quad[j], quad[4 + j]));
  }
#else
  float wide[8];
  for (int i = 0; i < 8; ++i) {
    widen_chunk(element, rows[i], wide);
    for (int k = 0; k < 8; ++k) out[k * 8 + i] = wide[k];
  }
#endif
}

// out[k][i] = in[i][k] for 4 by 8 floats; rows of `in` lie `pitch` floats apart, those of `out` 4.
inline void transpose_4x8(const float* in, int pitch, float (*out)[4]) {
#if defined(ATTNBENCH_VECTOR_F16)
  for (int half = 0; half < 8; half += 4) {
    __m128 r0 = _mm_loadu_ps(in + half), r1 = _mm_loadu_ps(in + pitch + half);
    __m128 r2 = _mm_loadu_ps(in + 2 * pitch + half), r3 = _mm_loadu_ps(in + 3 * pitch + half);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(out[half], r0);
    _mm_storeu_ps(out[half + 1], r1);
    _mm_storeu_ps(out[half + 2], r2);
    _mm_storeu_ps(out[half + 3], r3);
  }
#else
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 8; ++k) out[k][i] = in[i * pitch + k];
  }
#endif
}

// out[i][k] = in[k][i] for 8 by 8 floats; rows of `in` lie `pitch` floats apart, those of `out` 8.
inline void transpose_8x8(const float* in, int pitch, float* out) {
#if defined(ATTNBENCH_VECTOR_F16)
  __m256 row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(in + i * pitch);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * 8, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * 8, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31));
  }
#else
  for (int k = 0; k < 8; ++k) {
    for (int i = 0; i < 8; ++i) out[k * 8 + i] = in[i * pitch + k];
  }
#endif
}

}  // namespace attnbench::emulation
