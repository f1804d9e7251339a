// Fragment stores to shared memory (PTX ISA, "stmatrix"). Four 8x8 matrices of 16-bit elements; lane i gives the
// 16-byte-aligned address of row i % 8 of matrix i / 8, and register r holds matrix r's elements
// (row lane / 4, columns 2 * (lane % 4) and the next).
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void stmatrix_x4(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3,
                                  Where = ATTNBENCH_WHERE) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
}

// The same with each 8x8 matrix transposed on its way.
ATTNBENCH_DEVICE void stmatrix_x4_trans(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3,
                                        Where = ATTNBENCH_WHERE) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

}  // namespace attnbench::ptx
