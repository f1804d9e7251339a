// Ordinary (generic proxy) loads, stores and atomics. Shared addresses are in the shared::cta window.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void store_global_f32(float* address, float value, Where = ATTNBENCH_WHERE) { *address = value; }

ATTNBENCH_DEVICE void store_global_b32(void* address, uint32_t value, Where = ATTNBENCH_WHERE) {
  *static_cast<uint32_t*>(address) = value;
}

// address: 16-byte aligned.
ATTNBENCH_DEVICE void store_global_b128(void* address, const uint32_t (&value)[4], Where = ATTNBENCH_WHERE) {
  *static_cast<uint4*>(address) = make_uint4(value[0], value[1], value[2], value[3]);
}

ATTNBENCH_DEVICE float load_global_f32(const float* address, Where = ATTNBENCH_WHERE) { return __ldg(address); }

ATTNBENCH_DEVICE void store_shared_b32(uint32_t address, uint32_t value, Where = ATTNBENCH_WHERE) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

ATTNBENCH_DEVICE uint32_t load_shared_b32(uint32_t address, Where = ATTNBENCH_WHERE) {
  uint32_t value;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

ATTNBENCH_DEVICE void store_shared_b128(uint32_t address, const uint32_t (&value)[4], Where = ATTNBENCH_WHERE) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value[0]), "r"(value[1]), "r"(value[2]),
               "r"(value[3])
               : "memory");
}

ATTNBENCH_DEVICE void load_shared_b128(uint32_t (&value)[4], uint32_t address, Where = ATTNBENCH_WHERE) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value[0]), "=r"(value[1]), "=r"(value[2]), "=r"(value[3])
               : "r"(address)
               : "memory");
}

// Returns the value before the addition.
ATTNBENCH_DEVICE int atomic_add_global(int* address, int value, Where = ATTNBENCH_WHERE) {
  return atomicAdd(address, value);
}

}  // namespace attnbench::ptx
