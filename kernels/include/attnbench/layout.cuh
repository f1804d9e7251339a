// Layout maps: where an element lives in shared memory and in the registers of a warpgroup. All functions are
// constexpr and plain C++, so the same code addresses memory on the device, is proven by tests on the CPU and drives
// the CPU emulation.
//
// A tile of `rows` rows lives in shared memory as panels of 128 bytes by `rows` rows, each 1024-byte aligned and
// written by TMA with the 128-byte swizzle; a panel holds 64 columns of a 16-bit type, 128 of an 8-bit type.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ATTNBENCH_CONSTEXPR __host__ __device__ constexpr
#else
#define ATTNBENCH_CONSTEXPR constexpr
#endif

namespace attnbench {

enum class Dtype : int { fp16 = 0, bf16 = 1, e4m3 = 2 };

ATTNBENCH_CONSTEXPR int element_bytes(Dtype dtype) { return dtype == Dtype::e4m3 ? 1 : 2; }

constexpr int WARP_THREADS = 32;
constexpr int WARPGROUP_THREADS = 128;
constexpr int WARPGROUP_ROWS = 64;  // M of every wgmma
constexpr int WARP_ROWS = 16;       // rows of an accumulator that one warp of the warpgroup holds

// ---- 128-byte swizzle (PTX ISA, "Tensor swizzling modes") --------------------------------------------------------

constexpr uint32_t PANEL_ROW_BYTES = 128;
constexpr uint32_t SWIZZLE_PERIOD_BYTES = 1024;  // 8 rows; the pattern repeats, so panels are aligned to it
constexpr uint32_t CHUNK_BYTES = 16;             // the unit that the swizzle permutes within a row

// Swizzles a shared-memory address: the 16-byte chunk index (bits 4 to 6) is xored with the row index (bits 7 to 9).
ATTNBENCH_CONSTEXPR uint32_t swizzle_128b(uint32_t address) { return address ^ (((address >> 7) & 7u) << 4); }

ATTNBENCH_CONSTEXPR int panel_columns(Dtype dtype) { return int(PANEL_ROW_BYTES) / element_bytes(dtype); }

ATTNBENCH_CONSTEXPR uint32_t panel_bytes(int rows) { return uint32_t(rows) * PANEL_ROW_BYTES; }

// Byte offset of element (row, column) within a tile as TMA writes it, panels following each other.
ATTNBENCH_CONSTEXPR uint32_t tile_offset(Dtype dtype, int rows, int row, int column) {
  const int columns = panel_columns(dtype);
  const uint32_t linear = uint32_t(row) * PANEL_ROW_BYTES + uint32_t(column % columns * element_bytes(dtype));
  return uint32_t(column / columns) * panel_bytes(rows) + swizzle_128b(linear);
}

// ---- wgmma fragments (PTX ISA, "Register Fragments and Shared Memory Matrix Layouts") ------------------------------

// Row and column, within the 64 x N accumulator, of register `index` of thread `thread` of the warpgroup.
ATTNBENCH_CONSTEXPR int accumulator_row(int thread, int index) {
  return thread / WARP_THREADS * WARP_ROWS + thread % WARP_THREADS / 4 + (index >> 1 & 1) * 8;
}
ATTNBENCH_CONSTEXPR int accumulator_column(int thread, int index) {
  return index / 4 * 8 + thread % 4 * 2 + (index & 1);
}

// Row and k of element `element` (0: low half) of register `index` (0 to 3) of a 64 x 16 A operand of a 16-bit type.
ATTNBENCH_CONSTEXPR int a_fragment_row(int thread, int index) {
  return thread / WARP_THREADS * WARP_ROWS + thread % WARP_THREADS / 4 + (index & 1) * 8;
}
ATTNBENCH_CONSTEXPR int a_fragment_k(int thread, int index, int element) {
  return index / 2 * 8 + thread % 4 * 2 + element;
}

// The accumulator register whose value belongs in half `element` of A register `index` of k-step `step`: a score
// tile becomes the A operand of the next product by packing registers that the thread already holds.
ATTNBENCH_CONSTEXPR int a_fragment_source(int step, int index, int element) { return 8 * step + 2 * index + element; }

// k of element `element` (0: lowest byte) of register `index` (0 to 3) of a 64 x 32 A operand of an 8-bit type; the row
// is that of a_fragment_row.
ATTNBENCH_CONSTEXPR int a_fragment_k_8bit(int thread, int index, int element) {
  return index / 2 * 16 + thread % 4 * 4 + element;
}

// The same as a_fragment_source for an 8-bit type. A thread holds the right row but not the right keys: four neighbours
// of an A register are two pairs of accumulator columns, 8 apart. So the keys are renamed instead of the registers
// moved: within each 16, position `position` of k stands for key permuted_key(position), and V^T is stored so.
ATTNBENCH_CONSTEXPR int a_fragment_source_8bit(int step, int index, int element) {
  return 16 * step + 8 * (index / 2) + 2 * (index & 1) + 4 * (element / 2) + (element & 1);
}
constexpr int PERMUTED_KEYS = 16;
ATTNBENCH_CONSTEXPR int permuted_key(int position) { return position / 4 * 2 + (position & 1) + (position & 2) * 4; }

// ---- wgmma shared-memory descriptors (PTX ISA, "Matrix Descriptor") ------------------------------------------------
// Bits 0-13 start address, 16-29 leading byte offset, 32-45 stride byte offset (all >> 4), 49-51 base offset,
// 62-63 swizzle mode.

constexpr uint64_t DESCRIPTOR_SWIZZLE_128B = 1ull << 62;

// All three in bytes, multiples of 16 and below 2^18, as every shared-memory address is: no masking is needed.
// NOTE: the halves are put together by "or". In a sum ptxas does not see that the upper one is constant, and carries.
ATTNBENCH_CONSTEXPR uint64_t encode_descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes) {
  const uint32_t low = (address >> 4) + (leading_bytes >> 4 << 16);
  return low | uint64_t(stride_bytes >> 4) << 32 | DESCRIPTOR_SWIZZLE_128B;
}

// K-major operand (Q, K): k runs along the 128-byte rows. The stride offset steps over 8 rows of M or N; the leading
// offset is unused with this swizzle (1 by convention). `address` is that of the panel row where the operand starts,
// a multiple of 8 rows into the panel.
ATTNBENCH_CONSTEXPR uint64_t k_major_descriptor(uint32_t address) {
  return encode_descriptor(address, CHUNK_BYTES, SWIZZLE_PERIOD_BYTES);
}

// Added to a K-major descriptor to reach k-step `step` (32 bytes of k: 16 elements of 16 bits, 32 of 8 bits) of a tile
// of `rows` rows: four steps in a panel, then the next panel.
ATTNBENCH_CONSTEXPR uint64_t k_major_step(int step, int rows) {
  return (uint64_t(step / 4) * panel_bytes(rows) + uint64_t(step % 4) * 32) >> 4;
}

// MN-major operand (V as B): N runs along the 128-byte rows, k down the rows; 16-bit types only. The leading offset
// steps to the next 64 columns of N (the next panel), the stride offset over 8 rows of k.
ATTNBENCH_CONSTEXPR uint64_t mn_major_descriptor(uint32_t address, int rows) {
  return encode_descriptor(address, panel_bytes(rows), SWIZZLE_PERIOD_BYTES);
}

// Added to an MN-major descriptor to reach k-step `step` (16 rows).
ATTNBENCH_CONSTEXPR uint64_t mn_major_step(int step) { return (uint64_t(step) * 16 * PANEL_ROW_BYTES) >> 4; }

// The address at which wgmma reads element (mn, k) of an operand, by the ISA's rules, from the descriptor alone. The
// kernels never call it: it is what tests and emulation hold the maps above against.
ATTNBENCH_CONSTEXPR uint32_t descriptor_address(uint64_t descriptor, Dtype dtype, bool mn_major, int mn, int k) {
  const uint32_t start = uint32_t(descriptor & 0x3FFF) << 4;
  const uint32_t leading = uint32_t(descriptor >> 16 & 0x3FFF) << 4;
  const uint32_t stride = uint32_t(descriptor >> 32 & 0x3FFF) << 4;
  const uint32_t bytes = uint32_t(element_bytes(dtype));
  const uint32_t linear =
      mn_major ? start + uint32_t(mn / 64) * leading + uint32_t(mn % 64) * bytes + uint32_t(k / 8) * stride +
                     uint32_t(k % 8) * PANEL_ROW_BYTES
               : start + uint32_t(mn / 8) * stride + uint32_t(mn % 8) * PANEL_ROW_BYTES + uint32_t(k) * bytes;
  return swizzle_128b(linear);
}

}  // namespace attnbench
