// Emulated loads, stores and atomics; see kernels/include/attnbench/ptx/memory.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void store_global_f32(float* address, float value, Where where = ATTNBENCH_WHERE) {
  emulation::check_value(value, where);
  *address = value;
}

ATTNBENCH_DEVICE void store_global_b32(void* address, uint32_t value, Where where = ATTNBENCH_WHERE) {
  emulation::check_aligned(address, sizeof value, where);
  std::memcpy(address, &value, sizeof value);
}

ATTNBENCH_DEVICE void store_global_b64(void* address, uint32_t low, uint32_t high, Where where = ATTNBENCH_WHERE) {
  const uint32_t value[2] = {low, high};
  emulation::check_aligned(address, sizeof value, where);
  std::memcpy(address, value, sizeof value);
}

ATTNBENCH_DEVICE void store_global_b128(void* address, const uint32_t (&value)[4], Where where = ATTNBENCH_WHERE) {
  emulation::check_aligned(address, sizeof value, where);
  std::memcpy(address, value, sizeof value);
}

ATTNBENCH_DEVICE float load_global_f32(const float* address, Where = ATTNBENCH_WHERE) { return *address; }

ATTNBENCH_DEVICE void load_global_b128(uint32_t (&value)[4], const void* address, Where where = ATTNBENCH_WHERE) {
  emulation::check_aligned(address, sizeof value, where);
  std::memcpy(value, address, sizeof value);
}

ATTNBENCH_DEVICE void store_shared_b32(uint32_t address, uint32_t value, Where where = ATTNBENCH_WHERE) {
  emulation::store_shared(address, &value, sizeof value, emulation::Primitive::store_shared, where);
}

ATTNBENCH_DEVICE uint32_t load_shared_b32(uint32_t address, Where where = ATTNBENCH_WHERE) {
  uint32_t value = 0;
  emulation::load_shared(address, &value, sizeof value, where);
  return value;
}

ATTNBENCH_DEVICE void store_shared_b128(uint32_t address, const uint32_t (&value)[4], Where where = ATTNBENCH_WHERE) {
  emulation::store_shared(address, value, sizeof value, emulation::Primitive::store_shared, where);
}

ATTNBENCH_DEVICE void load_shared_b128(uint32_t (&value)[4], uint32_t address, Where where = ATTNBENCH_WHERE) {
  emulation::load_shared(address, value, sizeof value, where);
}

// Emulated CTAs share one host thread, so the addition is whole by itself.
ATTNBENCH_DEVICE int atomic_add_global(int* address, int value, Where = ATTNBENCH_WHERE) {
  const int before = *address;
  *address += value;
  return before;
}

ATTNBENCH_DEVICE void atomic_maximum_global(uint32_t* address, uint32_t value, Where = ATTNBENCH_WHERE) {
  *address = value > *address ? value : *address;
}

}  // namespace attnbench::ptx
