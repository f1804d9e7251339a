// Ordinary (generic proxy) loads, stores and atomics. Shared addresses are in the shared::cta window.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void store_global_f32(float* address, float value, Where = ATTNBENCH_WHERE) { *address = value; }

ATTNBENCH_DEVICE void store_global_b32(void* address, uint32_t value, Where = ATTNBENCH_WHERE) {
  *static_cast<uint32_t*>(address) = value;
}

// address: 8-byte aligned.
ATTNBENCH_DEVICE void store_global_b64(void* address, uint32_t low, uint32_t high, Where = ATTNBENCH_WHERE) {
  *static_cast<uint2*>(address) = make_uint2(low, high);
}

// address: 16-byte aligned.
ATTNBENCH_DEVICE void store_global_b128(void* address, const uint32_t (&value)[4], Where = ATTNBENCH_WHERE) {
  *static_cast<uint4*>(address) = make_uint4(value[0], value[1], value[2], value[3]);
}

ATTNBENCH_DEVICE float load_global_f32(const float* address, Where = ATTNBENCH_WHERE) { return __ldg(address); }

// address: 16-byte aligned, and not written while the kernel runs.
ATTNBENCH_DEVICE void load_global_b128(uint32_t (&value)[4], const void* address, Where = ATTNBENCH_WHERE) {
  const uint4 words = __ldg(static_cast<const uint4*>(address));
  value[0] = words.x;
  value[1] = words.y;
  value[2] = words.z;
  value[3] = words.w;
}

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

// Raises *address to value; whole numbers, so that the order in which threads come does not matter.
ATTNBENCH_DEVICE void atomic_maximum_global(uint32_t* address, uint32_t value, Where = ATTNBENCH_WHERE) {
  atomicMax(address, value);
}

}  // namespace attnbench::ptx
