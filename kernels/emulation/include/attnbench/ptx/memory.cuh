// Emulated loads, stores and atomics; see kernels/include/attnbench/ptx/memory.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void store_global_f32(float* address, float value, Where where = ATTNBENCH_WHERE) {
  emulation::check_value(value, where);
  emulation::count_write(sizeof value);
  *address = value;
}

ATTNBENCH_DEVICE void store_global_b32(void* address, uint32_t value, Where where = ATTNBENCH_WHERE) {
  emulation::check_aligned(address, sizeof value, where);
  emulation::count_write(sizeof value);
  std::memcpy(address, &value, sizeof value);
}

ATTNBENCH_DEVICE void store_global_b64(void* address, uint32_t low, uint32_t high, Where where = ATTNBENCH_WHERE) {
  const uint32_t value[2] = {low, high};
  emulation::check_aligned(address, sizeof value, where);
  emulation::count_write(sizeof value);
  std::memcpy(address, value, sizeof value);
}

ATTNBENCH_DEVICE void store_global_b128(void* address, const uint32_t (&value)[4], Where where = ATTNBENCH_WHERE) {
  emulation::check_aligned(address, sizeof value, where);
  emulation::count_write(sizeof value);
  std::memcpy(address, value, sizeof value);
}

ATTNBENCH_DEVICE float load_global_f32(const float* address, Where = ATTNBENCH_WHERE) {
  emulation::count_read(sizeof *address);
  return *address;
}

ATTNBENCH_DEVICE void load_global_b128(uint32_t (&value)[4], const void* address, Where where = ATTNBENCH_WHERE) {
  emulation::check_aligned(address, sizeof value, where);
  emulation::count_read(sizeof value);
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

// CTAs in flight together run on several threads of the host: what one of them gets must not depend on which is faster.
ATTNBENCH_DEVICE int atomic_add_global(int* address, int value, Where = ATTNBENCH_WHERE) {
  emulation::count_read(sizeof value);
  emulation::count_write(sizeof value);
  emulation::wait_for_turn();
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
}

ATTNBENCH_DEVICE void atomic_maximum_global(uint32_t* address, uint32_t value, Where = ATTNBENCH_WHERE) {
  emulation::count_read(sizeof value);
  emulation::count_write(sizeof value);
  uint32_t before = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value > before && !__atomic_compare_exchange_n(address, &before, value, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
  }
}

}  // namespace attnbench::ptx
