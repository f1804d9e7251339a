// Emulated counterpart of kernels/include/attnbench/host.h: tensor maps are descriptions, a launch runs fibers.
#pragma once

#include <attnbench/abi.h>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/validate.h>

#include <cstdint>

namespace attnbench {

// Text for a status above ATTNBENCH_HOST_ERROR_BASE: the kind of the launch's first hazard.
inline const char* host_error_string(int32_t error) {
  static char text[64];
  std::snprintf(text, sizeof text, "emulated hazard: %s", emulation::name_of(static_cast<emulation::Hazard>(error)));
  return text;
}

inline int32_t check_device() { return ATTNBENCH_OK; }

inline int32_t multiprocessor_count(int* out) {
  *out = emulation::launch.config.multiprocessors;
  return ATTNBENCH_OK;
}

// Limits of cuTensorMapEncodeTiled (CUDA Driver API) that a kernel's constants could break.
inline bool valid_box(const int box[4], int64_t bytes) {
  for (int i = 0; i < 4; ++i) {
    if (box[i] < 1 || box[i] > 256) return false;
  }
  return box[0] * bytes <= PANEL_ROW_BYTES && box[0] * bytes % TMA_ALIGNMENT_BYTES == 0;
}

inline int32_t encode_tensor_map(ptx::TensorMap* map, Dtype dtype, const void* base, const int64_t sizes[4],
                                 const int64_t strides[3], const int box[4]) {
  const int64_t bytes = dtype == Dtype::e4m3 ? 1 : 2;
  // The swizzle is modelled for rows of the full 128 bytes, which is what the kernels use.
  if (!valid_box(box, bytes) || box[0] * bytes != PANEL_ROW_BYTES) return ATTNBENCH_TENSOR_MAP_ERROR;
  map->base = static_cast<unsigned char*>(const_cast<void*>(base));
  map->element = dtype == Dtype::e4m3 ? emulation::Element::e4m3
                                      : (dtype == Dtype::bf16 ? emulation::Element::bf16 : emulation::Element::f16);
  for (int i = 0; i < 4; ++i) {
    map->sizes[i] = sizes[i];
    map->box[i] = box[i];
  }
  for (int i = 0; i < 3; ++i) map->stride_bytes[i] = sizes[i + 1] == 1 ? TMA_ALIGNMENT_BYTES : strides[i] * bytes;
  return ATTNBENCH_OK;
}

template <typename T>
struct AsDeclared {
  using type = T;
};

template <typename... Parameters>
int32_t allow_shared_memory(void (*)(Parameters...), int) {
  return ATTNBENCH_OK;  // a launch checks what it asks for
}

// Runs the grid to its end before it returns. Status: ATTNBENCH_HOST_ERROR_BASE + the first hazard's kind.
template <typename... Parameters>
int32_t launch(void (*kernel)(Parameters...), int grid, int threads, int shared_bytes, void*,
               typename AsDeclared<Parameters>::type... parameters) {
  const int hazard = emulation::run([&] { kernel(parameters...); }, grid, threads, shared_bytes);
  return hazard == 0 ? ATTNBENCH_OK : ATTNBENCH_HOST_ERROR_BASE + hazard;
}

// One cluster fits at least, whatever the number of multiprocessors: the schedule of a run chooses that.
template <typename... Parameters>
int32_t active_clusters(void (*)(Parameters...), int cluster, int, int, int* out) {
  *out = (emulation::launch.config.multiprocessors + cluster - 1) / cluster;
  return ATTNBENCH_OK;
}

// The same in clusters of `cluster` CTAs.
template <typename... Parameters>
int32_t launch_clusters(void (*kernel)(Parameters...), int cluster, int clusters, int threads, int shared_bytes, void*,
                        typename AsDeclared<Parameters>::type... parameters) {
  const int hazard =
      emulation::run([&] { kernel(parameters...); }, clusters * cluster, threads, shared_bytes, cluster);
  return hazard == 0 ? ATTNBENCH_OK : ATTNBENCH_HOST_ERROR_BASE + hazard;
}

inline int32_t zero_async(void* memory, uint64_t bytes, void*) {
  std::memset(memory, 0, bytes);
  return ATTNBENCH_OK;
}

}  // namespace attnbench
