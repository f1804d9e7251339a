// What files of planted faults share: arguments, table and exports. Such a file first defines `enum class Fault`, then
// SHARED_SIZE (bytes of a CTA) and CASES, and ends with HAZARD_EXPORTS.
#pragma once

#include <attnbench/host.h>

using namespace attnbench;

constexpr int TILE_ROWS = 64;
constexpr uint32_t TILE_SIZE = TILE_ROWS * 128;  // 64 rows of 64 fp16

struct Arguments {
  ptx::TensorMap source, target;
  float* out;
  Fault fault;
};

struct Case {
  const char* name;
  void (*kernel)(Arguments);
  int threads;  // of a CTA
  Fault fault;
  const char* expected;  // kinds of hazard, any of which must come first; "" for a sound kernel
  int ctas = 1;          // of the cluster
};

// Runs a kernel on a tensor of 128 rows, one on 96, and room for 32 numbers of each thread.
inline int32_t run_case(const Case& one, int shared_bytes) {
  static uint16_t source[128 * 64], target[96 * 64];
  static float out[2 * 128 * 32];
  for (int i = 0; i < 128 * 64; ++i) source[i] = uint16_t(0x3000 + i % 512);
  Arguments a;
  const int64_t sizes[4] = {64, 128, 1, 1}, target_sizes[4] = {64, 96, 1, 1}, strides[3] = {64, 64, 64};
  const int box[4] = {64, TILE_ROWS, 1, 1};
  if (int32_t status = encode_tensor_map(&a.source, Dtype::fp16, source, sizes, strides, box)) return status;
  if (int32_t status = encode_tensor_map(&a.target, Dtype::fp16, target, target_sizes, strides, box)) return status;
  a.out = out;
  a.fault = one.fault;
  return launch_clusters(one.kernel, one.ctas, 1, one.threads, shared_bytes, nullptr, a);
}

#define HAZARD_EXPORTS                                                                        \
  ATTNBENCH_EXPORT const char* hazard_name(int32_t index) {                                   \
    return index < int32_t(sizeof CASES / sizeof CASES[0]) ? CASES[index].name : nullptr;     \
  }                                                                                           \
  ATTNBENCH_EXPORT const char* hazard_expected(int32_t index) { return CASES[index].expected; } \
  ATTNBENCH_EXPORT int32_t hazard_run(int32_t index) { return run_case(CASES[index], SHARED_SIZE); }
