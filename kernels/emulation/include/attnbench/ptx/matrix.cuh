// Emulated stmatrix; see kernels/include/attnbench/ptx/matrix.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void stmatrix_x4(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3,
                                  Where where = ATTNBENCH_WHERE) {
  emulation::stmatrix_x4(address, {r0, r1, r2, r3}, false, where);
}

ATTNBENCH_DEVICE void stmatrix_x4_trans(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3,
                                        Where where = ATTNBENCH_WHERE) {
  emulation::stmatrix_x4(address, {r0, r1, r2, r3}, true, where);
}

}  // namespace attnbench::ptx
