// What one wgmma computes: descriptors, operand gathering and the 64 x N x K product (PTX ISA, "Asynchronous warpgroup
// level matrix multiply-accumulate").
#pragma once

#include <attnbench/emulation/shared_memory.h>

namespace attnbench::emulation {

constexpr int WGMMA_ROWS = 64;
constexpr int INSTRUCTION_K_BYTES = 32;  // 16 elements of 16 bits, 32 of 8 bits
constexpr int CHUNKS_PER_ROW = INSTRUCTION_K_BYTES / static_cast<int>(GRANULE_BYTES);
constexpr int MAX_COLUMNS = 256;
constexpr int MAX_CHUNKS = MAX_COLUMNS * CHUNKS_PER_ROW;

// PTX ISA, "Matrix descriptor format": all addresses in units of 16 bytes.
// NOTE: of the start address two bits more than hardware has, in which the window of a cluster's CTA stands here.
struct Descriptor {
  uint32_t start, leading, stride, base_offset, swizzle;  // bytes; swizzle 0 none, 1: 128, 2: 64, 3: 32 bytes

  explicit Descriptor(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0xffff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        base_offset(static_cast<uint32_t>(bits >> 49 & 7)),
        swizzle(static_cast<uint32_t>(bits >> 62)) {}

  // Bytes of a row of the swizzle atom.
  uint32_t pitch() const { return swizzle == 0 ? 16u : 256u >> swizzle; }

  uint32_t swizzled(uint32_t address) const {
    const uint32_t mask = swizzle == 0 ? 0u : 8u / (1u << (swizzle - 1)) - 1u;  // 7, 3, 1
    return address ^ ((address >> 7 & mask) << 4);
  }
};

// Shared addresses of an operand's 16-byte chunks, `extent` rows (M or N) by one instruction's K.
// K-major: chunk row * 2 + half. MN-major (16-bit only): chunk k * (extent / 8) + row / 8.
// Canonical layouts as in PTX ISA, "Strides": a swizzle atom has 8 rows (K-major) or 8 steps of K (MN-major).
inline void operand_chunks(const Descriptor& d, bool mn_major, int extent, uint32_t* out) {
  if (!mn_major) {
    for (int row = 0; row < extent; ++row) {
      const uint32_t base =
          d.start + static_cast<uint32_t>(row / 8) * d.stride + static_cast<uint32_t>(row % 8) * d.pitch();
      for (int half = 0; half < CHUNKS_PER_ROW; ++half) {
        const uint32_t step = d.swizzle == 0 ? d.leading : GRANULE_BYTES;
        out[row * CHUNKS_PER_ROW + half] = d.swizzled(base + static_cast<uint32_t>(half) * step);
      }
    }
    return;
  }
  const int chunks = extent / 8, per_atom = static_cast<int>(d.pitch() / GRANULE_BYTES);
  const uint32_t atom_step = d.swizzle == 0 ? d.stride : d.leading, k_step = d.swizzle == 0 ? d.leading : d.stride;
  for (int k = 0; k < 16; ++k) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      out[k * chunks + chunk] = d.swizzled(
          d.start + static_cast<uint32_t>(chunk / per_atom) * atom_step + static_cast<uint32_t>(k / 8) * k_step +
          static_cast<uint32_t>(k % 8) * d.pitch() + static_cast<uint32_t>(chunk % per_atom) * GRANULE_BYTES);
    }
  }
}

inline int chunk_count(int extent) { return extent * CHUNKS_PER_ROW; }

// Whether the layout looks at the leading byte offset.
inline bool uses_leading(const Descriptor& d, bool mn_major, int extent) {
  return d.swizzle == 0 || (mn_major && extent * 2 > static_cast<int>(d.pitch()));
}

// Row and column of accumulator register `reg` of `thread` (0 to 127). PTX ISA, "... matrix D".
inline int accumulator_row(int thread, int reg) { return thread / 32 * 16 + thread % 32 / 4 + 8 * (reg / 2 % 2); }
inline int accumulator_column(int thread, int reg) { return reg / 4 * 8 + thread % 4 * 2 + reg % 2; }

// Columns of B that lie side by side in memory, and rows of A likewise: what the product below takes at a time.
constexpr int BLOCK_COLUMNS = 8;
constexpr int BLOCK_ROWS = 4;
// Steps of K that are gathered before they are multiplied: 16 instructions of 16 bits, 8 of 8 bits.
constexpr int MAX_STEPS = 256;

// Operands of consecutive instructions on one accumulator, widened to float: A by blocks of rows as [block][k][row], B by
// blocks of columns as [block][k][column].
struct Operands {
  int k = 0, columns = 0;
  alignas(64) float a[WGMMA_ROWS / BLOCK_ROWS][MAX_STEPS][BLOCK_ROWS];
  alignas(64) float b[MAX_COLUMNS / BLOCK_COLUMNS][MAX_STEPS][BLOCK_COLUMNS];

  void put_a(int row, int step, float value) { a[row / BLOCK_ROWS][step][row % BLOCK_ROWS] = value; }

  // `steps` neighbours in K of each row of a block.
  void put_rows(int block, int step, int steps, const float (&wide)[BLOCK_ROWS][16]) {
    for (int k = 0; k < steps; k += 8) transpose_4x8(&wide[0][k], 16, &a[block][step + k]);
  }
};

inline int instruction_k(Element element) { return INSTRUCTION_K_BYTES / element_bytes(element); }

// One instruction's A, whose first step of K is `first`: by blocks of rows, since chunks hold neighbours in K.
inline void gather_a(const WgmmaOperation& op, int first, Operands& out) {
  const unsigned char* shared = cta().shared;
  uint32_t chunks[MAX_CHUNKS];
  operand_chunks(Descriptor(op.descriptor_a), op.shape->transpose_a, WGMMA_ROWS, chunks);
  if (op.shape->transpose_a) {
    float wide[16];
    for (int k = 0; k < 16; ++k) {
      for (int chunk = 0; chunk < WGMMA_ROWS / 8; ++chunk) {
        widen_chunk(op.shape->element, shared + chunks[k * (WGMMA_ROWS / 8) + chunk], wide);
        for (int i = 0; i < 8; ++i) out.put_a(chunk * 8 + i, first + k, wide[i]);
      }
    }
    return;
  }
  const int per_chunk = instruction_k(op.shape->element) / CHUNKS_PER_ROW;
  float wide[BLOCK_ROWS][16];
  for (int block = 0; block < WGMMA_ROWS / BLOCK_ROWS; ++block) {
    for (int half = 0; half < CHUNKS_PER_ROW; ++half) {
      for (int i = 0; i < BLOCK_ROWS; ++i) {
        const int row = block * BLOCK_ROWS + i;
        widen_chunk(op.shape->element, shared + chunks[row * CHUNKS_PER_ROW + half], wide[i]);
      }
      out.put_rows(block, first + half * per_chunk, per_chunk, wide);
    }
  }
}

// The same from the fragments (PTX ISA, "Register fragments for wgmma ... matrix A"): lanes 4 (row % 8) to 4 (row % 8) + 3
// of the warp that has the row hold its chunk, a register each: 0 or 1 by row / 8, and 2 more for the second half of K.
inline void gather_fragment_a(const WgmmaOperation& op, int first, Operands& out) {
  const int per_chunk = instruction_k(op.shape->element) / CHUNKS_PER_ROW;
  float wide[BLOCK_ROWS][16];
  for (int block = 0; block < WGMMA_ROWS / BLOCK_ROWS; ++block) {
    for (int half = 0; half < CHUNKS_PER_ROW; ++half) {
      for (int i = 0; i < BLOCK_ROWS; ++i) {
        const int row = block * BLOCK_ROWS + i, in_warp = row % 16;
        const uint32_t* const* quad = op.fragment_a + row / 16 * 32 + in_warp % 8 * 4;
        const int reg = in_warp / 8 + 2 * half;
        const uint32_t words[4] = {quad[0][reg], quad[1][reg], quad[2][reg], quad[3][reg]};
        widen_chunk(op.shape->element, reinterpret_cast<const unsigned char*>(words), wide[i]);
      }
      out.put_rows(block, first + half * per_chunk, per_chunk, wide);
    }
  }
}

inline void gather_b(const WgmmaOperation& op, int first, Operands& out) {
  const unsigned char* shared = cta().shared;
  uint32_t chunks[MAX_CHUNKS];
  operand_chunks(Descriptor(op.descriptor_b), op.shape->transpose_b, op.shape->columns, chunks);
  const int blocks = op.shape->columns / BLOCK_COLUMNS;
  if (op.shape->transpose_b) {
    for (int block = 0; block < blocks; ++block) {
      for (int k = 0; k < 16; ++k) {
        widen_chunk(op.shape->element, shared + chunks[k * blocks + block], out.b[block][first + k]);
      }
    }
    return;
  }
  float wide[BLOCK_COLUMNS][16];
  const int per_chunk = instruction_k(op.shape->element) / CHUNKS_PER_ROW;
  for (int block = 0; block < blocks; ++block) {
    for (int half = 0; half < CHUNKS_PER_ROW; ++half) {
      if (op.shape->element != Element::e4m3) {
        const unsigned char* rows[BLOCK_COLUMNS];
        for (int i = 0; i < BLOCK_COLUMNS; ++i) {
          rows[i] = shared + chunks[(block * BLOCK_COLUMNS + i) * CHUNKS_PER_ROW + half];
        }
        widen_transposed(op.shape->element, rows, out.b[block][first + half * per_chunk]);
        continue;
      }
      for (int i = 0; i < BLOCK_COLUMNS; ++i) {
        widen_chunk(op.shape->element, shared + chunks[(block * BLOCK_COLUMNS + i) * CHUNKS_PER_ROW + half], wide[i]);
      }
      for (int k = 0; k < per_chunk; k += BLOCK_COLUMNS) {
        transpose_8x8(&wide[0][k], 16, out.b[block][first + half * per_chunk + k]);
      }
    }
  }
}

// Eight floats at a time on any target (GCC vector extension); 4 rows by up to 24 columns stay in registers.
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));

inline Vector& vector_at(float* address) { return *reinterpret_cast<Vector*>(address); }
inline const Vector& vector_at(const float* address) { return *reinterpret_cast<const Vector*>(address); }

// Four rows of 8 columns of the sums; fresh ones start at 0.
struct Quad {
  Vector r0 = {}, r1 = {}, r2 = {}, r3 = {};

  Quad(const float* at, int pitch, bool fresh) {
    if (fresh) return;
    r0 = vector_at(at);
    r1 = vector_at(at + pitch);
    r2 = vector_at(at + 2 * pitch);
    r3 = vector_at(at + 3 * pitch);
  }
  void add(const float* a, const Vector& b) {
    r0 += a[0] * b;
    r1 += a[1] * b;
    r2 += a[2] * b;
    r3 += a[3] * b;
  }
  void store(float* at, int pitch) const {
    vector_at(at) = r0;
    vector_at(at + pitch) = r1;
    vector_at(at + 2 * pitch) = r2;
    vector_at(at + 3 * pitch) = r3;
  }
};

// value (64 x columns, row by row) += A B, or = A B where `Fresh`, each element's terms in the order of K.
// NOTE: one function for each number of blocks, its sums by name: arrays of vectors end on the stack and take several
// times as long. Three blocks at a time load least for each multiplication.
template <bool Fresh>
inline void multiply_24_columns(const Operands& in, int row_block, int block, float* value) {
  const int pitch = in.columns;
  float* at = value + row_block * BLOCK_ROWS * pitch + block * BLOCK_COLUMNS;
  Quad s0(at, pitch, Fresh), s1(at + 8, pitch, Fresh), s2(at + 16, pitch, Fresh);
  const float *a = in.a[row_block][0], *b0 = in.b[block][0], *b1 = in.b[block + 1][0], *b2 = in.b[block + 2][0];
  for (int k = 0; k < in.k; ++k, a += BLOCK_ROWS, b0 += BLOCK_COLUMNS, b1 += BLOCK_COLUMNS, b2 += BLOCK_COLUMNS) {
    s0.add(a, vector_at(b0));
    s1.add(a, vector_at(b1));
    s2.add(a, vector_at(b2));
  }
  s0.store(at, pitch), s1.store(at + 8, pitch), s2.store(at + 16, pitch);
}

template <bool Fresh>
inline void multiply_16_columns(const Operands& in, int row_block, int block, float* value) {
  const int pitch = in.columns;
  float* at = value + row_block * BLOCK_ROWS * pitch + block * BLOCK_COLUMNS;
  Quad s0(at, pitch, Fresh), s1(at + 8, pitch, Fresh);
  const float *a = in.a[row_block][0], *b0 = in.b[block][0], *b1 = in.b[block + 1][0];
  for (int k = 0; k < in.k; ++k, a += BLOCK_ROWS, b0 += BLOCK_COLUMNS, b1 += BLOCK_COLUMNS) {
    s0.add(a, vector_at(b0));
    s1.add(a, vector_at(b1));
  }
  s0.store(at, pitch), s1.store(at + 8, pitch);
}

template <bool Fresh>
inline void multiply_8_columns(const Operands& in, int row_block, int block, float* value) {
  const int pitch = in.columns;
  float* at = value + row_block * BLOCK_ROWS * pitch + block * BLOCK_COLUMNS;
  Quad s0(at, pitch, Fresh);
  const float *a = in.a[row_block][0], *b0 = in.b[block][0];
  for (int k = 0; k < in.k; ++k, a += BLOCK_ROWS, b0 += BLOCK_COLUMNS) s0.add(a, vector_at(b0));
  s0.store(at, pitch);
}

template <bool Fresh>
inline void multiply_accumulate(const Operands& in, float* value) {
  constexpr int ROW_BLOCKS = WGMMA_ROWS / BLOCK_ROWS;
  const int blocks = in.columns / BLOCK_COLUMNS;
  int block = 0;
  const auto each_row = [&](auto multiply, int wide) {
    for (int row_block = 0; row_block < ROW_BLOCKS; ++row_block) multiply(in, row_block, block, value);
    block += wide;
  };
  while (blocks - block >= 5 || blocks - block == 3) each_row(multiply_24_columns<Fresh>, 3);
  while (blocks - block >= 2) each_row(multiply_16_columns<Fresh>, 2);
  if (block < blocks) each_row(multiply_8_columns<Fresh>, 1);
}

// Sum of the terms as Hopper's e4m3 tensor core forms it: each term is aligned to the largest and only the highest 14
// bits of it count (DeepSeek-V3 technical report, section 3.5.2), the rest cut off towards zero for either sign (Fasi,
// Higham, Mikaitis and Pranesh, PeerJ CS 7:e330). The same model as attnbench/reference/fp8.py.
constexpr int ALIGNED_BITS = 14;

inline float truncated_sum(const float* terms, int count) {
  float largest = 0.0f;
  for (int i = 0; i < count; ++i) {
    if (!std::isfinite(terms[i])) return NAN;
    largest = std::max(largest, std::fabs(terms[i]));
  }
  if (largest == 0.0f) return 0.0f;
  const double quantum = std::ldexp(1.0, std::ilogb(largest) - (ALIGNED_BITS - 1));
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += std::trunc(terms[i] / quantum) * quantum;
  return static_cast<float>(sum);
}

typedef int32_t WholeVector __attribute__((vector_size(32), aligned(4), may_alias));

// Eight of these sums side by side, in fp32: cut terms are whole multiples of a power of two, fewer than 2^14 of it each.
// False, and nothing done, where one of the largest terms is so small or so large that its quantum is not normal, or
// where a term is not finite.
inline bool truncated_sums(const Vector* terms, int count, float* sums) {
  constexpr float SMALLEST = 0x1p-100f, LARGEST = 0x1p100f;
  const WholeVector exponent_bits = WholeVector{} + 0x7f800000, magnitude_bits = WholeVector{} + 0x7fffffff;
  WholeVector largest = {}, beyond = {};  // magnitudes are ordered as their bits are
  for (int i = 0; i < count; ++i) {
    const WholeVector magnitude = reinterpret_cast<WholeVector>(terms[i]) & magnitude_bits;
    largest = magnitude > largest ? magnitude : largest;
  }
  const WholeVector least = WholeVector{} + static_cast<int32_t>(bits_of(SMALLEST));
  beyond = (largest > static_cast<int32_t>(bits_of(LARGEST))) | ((largest < least) & (largest != 0));
  for (int i = 0; i < 8; ++i) {
    if (beyond[i]) return false;
  }
  largest = largest > least ? largest : least;  // all terms are 0 there
  const WholeVector power = largest & exponent_bits;
  const Vector scale = reinterpret_cast<Vector>((WholeVector{} + (254 << 23)) - power) * float(1 << (ALIGNED_BITS - 1));
  WholeVector sum = {};
  for (int i = 0; i < count; ++i) sum += __builtin_convertvector(terms[i] * scale, WholeVector);
  const Vector quantum = reinterpret_cast<Vector>(power) * (1.0f / float(1 << (ALIGNED_BITS - 1)));
  const Vector found = __builtin_convertvector(sum, Vector) * quantum;
  vector_at(sums) = found;
  return true;
}

// One instruction's steps of K, of the operands gathered.
inline void multiply_accumulate_truncated(const Operands& in, float* value) {
  Vector terms[33];
  float one[33];
  for (int row = 0; row < WGMMA_ROWS; ++row) {
    const auto& a = in.a[row / BLOCK_ROWS];
    for (int block = 0; block < in.columns / BLOCK_COLUMNS; ++block) {
      float* sums = value + row * in.columns + block * BLOCK_COLUMNS;
      for (int k = 0; k < in.k; ++k) {
        terms[k] = vector_at(in.b[block][k]) * a[k][row % BLOCK_ROWS];
      }
      terms[in.k] = vector_at(sums);
      if (truncated_sums(terms, in.k + 1, sums)) continue;
      for (int i = 0; i < 8; ++i) {
        for (int k = 0; k <= in.k; ++k) one[k] = terms[k][i];
        sums[i] = truncated_sum(one, in.k + 1);
      }
    }
  }
}

}  // namespace attnbench::emulation
