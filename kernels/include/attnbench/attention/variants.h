// From a list of configurations to a kernel library: the __global__ functions, the variant table, the launch and the
// exports of abi.h. A kernel file defines, in namespace attnbench,
//   template <class C> struct SharedStorage   its size is the dynamic shared memory of a CTA
//   template <class C> void forward(q_map, k_map, v_map, out_map, params)   the device code
//   a Config type per variant with the members that describe() and launch_config() below read
// and ends with ATTNBENCH_FORWARD_LIBRARY(LIST), where LIST(V) expands to V(symbol, Config...) per variant.
#pragma once

#include <attnbench/attention/forward.h>
#include <attnbench/attention/mask.cuh>
#include <attnbench/attention/scheduler.cuh>

namespace attnbench {

using ForwardKernel = void(ptx::TensorMap, ptx::TensorMap, ptx::TensorMap, ptx::TensorMap, ForwardParams);

// Products of 16-bit types are summed in fp32; an e4m3 Config says how it sums.
template <class C>
constexpr int32_t accumulator_of() {
  if constexpr (C::dtype == Dtype::e4m3) {
    return C::accumulator;
  } else {
    return ATTNBENCH_ACCUMULATOR_FP32;
  }
}

// Members of Config: schedule (text), dtype, head_dim, causal, tile_m, tile_n, stages, threads, consumer_warpgroups,
// flags; for e4m3 also accumulator. shared_bytes: sizeof its SharedStorage.
template <class C>
constexpr AttnbenchVariant describe(const char* kernel, int shared_bytes) {
  return {C::schedule,
          kernel,
          int32_t(C::dtype),
          C::head_dim,
          C::causal,
          C::tile_m,
          C::tile_n,
          C::stages,
          C::threads,
          C::consumer_warpgroups,
          shared_bytes,
          C::flags,
          accumulator_of<C>()};
}

// Tiles of unequal length are dealt out by a counter in the workspace (scheduler.cuh).
template <class C>
constexpr bool uses_tile_counter() {
  return C::causal && (C::flags & ATTNBENCH_FLAG_PERSISTENT) != 0;
}

// CTAs of a cluster.
template <class C>
constexpr int cluster_ctas() {
  return C::flags & ATTNBENCH_FLAG_MULTICAST ? 2 : 1;
}

// CTAs of a persistent kernel that the device runs at a time, or clusters of them.
template <class C>
int32_t resident_clusters(ForwardKernel* kernel, int shared_bytes, int* out) {
  if constexpr (cluster_ctas<C>() > 1) {
    return active_clusters(kernel, cluster_ctas<C>(), C::threads, shared_bytes, out);
  } else {
    return multiprocessor_count(out);
  }
}

// Members of Config: also q_rows, out_rows: rows of one copy of q and out.
template <class C>
int32_t launch_config(ForwardKernel* kernel, int shared_bytes, const AttnbenchForwardArgs& args) {
  if (int32_t status = allow_shared_memory(kernel, shared_bytes)) return status;
  ForwardMaps maps;
  if (int32_t status = encode_forward_maps(args, C::q_rows, C::tile_n, C::out_rows, &maps)) return status;
  ForwardParams params = forward_params(args);
  int grid = tile_count<cluster_ctas<C>() * C::tile_m>(params);  // clusters, or CTAs without
  if (C::flags & ATTNBENCH_FLAG_PERSISTENT) {
    int resident = 0;
    if (int32_t status = resident_clusters<C>(kernel, shared_bytes, &resident)) return status;
    if (grid > resident) grid = resident;
  }
  if (uses_tile_counter<C>()) {
    params.tile_counter = static_cast<int*>(args.workspace);
    if (int32_t status = zero_async(args.workspace, sizeof(int), args.stream)) return status;
  }
  if constexpr (cluster_ctas<C>() > 1) {
    return launch_clusters(kernel, cluster_ctas<C>(), grid, C::threads, shared_bytes, args.stream, maps.q, maps.k,
                           maps.v, maps.out, params);
  } else {
    return launch(kernel, grid, C::threads, shared_bytes, args.stream, maps.q, maps.k, maps.v, maps.out, params);
  }
}

}  // namespace attnbench

// The list of a kernel that has every 16-bit variant: V(PREFIX_<dtype>_d<head_dim>[_causal], CONFIG(dtype, ...)).
#define ATTNBENCH_VARIANTS_OF_DTYPE(V, PREFIX, CONFIG, dtype)                                    \
  V(PREFIX##_##dtype##_d64, CONFIG<attnbench::Dtype::dtype, 64, false>)                          \
  V(PREFIX##_##dtype##_d64_causal, CONFIG<attnbench::Dtype::dtype, 64, true>)                    \
  V(PREFIX##_##dtype##_d128, CONFIG<attnbench::Dtype::dtype, 128, false>)                        \
  V(PREFIX##_##dtype##_d128_causal, CONFIG<attnbench::Dtype::dtype, 128, true>)                  \
  V(PREFIX##_##dtype##_d256, CONFIG<attnbench::Dtype::dtype, 256, false>)                        \
  V(PREFIX##_##dtype##_d256_causal, CONFIG<attnbench::Dtype::dtype, 256, true>)
#define ATTNBENCH_VARIANTS_16_BIT(V, PREFIX, CONFIG)        \
  ATTNBENCH_VARIANTS_OF_DTYPE(V, PREFIX, CONFIG, fp16)      \
  ATTNBENCH_VARIANTS_OF_DTYPE(V, PREFIX, CONFIG, bf16)

#define ATTNBENCH_VARIANT_KERNEL(symbol, ...)                                    \
  using symbol##_config = __VA_ARGS__;                                           \
  extern "C" ATTNBENCH_KERNEL(symbol##_config::threads)                          \
      symbol(ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap q,          \
             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap k,          \
             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap v,          \
             ATTNBENCH_GRID_CONSTANT const attnbench::ptx::TensorMap out,        \
             ATTNBENCH_GRID_CONSTANT const attnbench::ForwardParams params) {    \
    attnbench::forward<symbol##_config>(q, k, v, out, params);                   \
  }
#define ATTNBENCH_VARIANT_SHARED_BYTES(symbol) int32_t(sizeof(attnbench::SharedStorage<symbol##_config>))
#define ATTNBENCH_VARIANT_ROW(symbol, ...) \
  attnbench::describe<symbol##_config>(#symbol, ATTNBENCH_VARIANT_SHARED_BYTES(symbol)),
#define ATTNBENCH_VARIANT_LAUNCH(symbol, ...)                                                                  \
  if (args.variant == row++) {                                                                                 \
    return attnbench::launch_config<symbol##_config>(symbol, ATTNBENCH_VARIANT_SHARED_BYTES(symbol), args);    \
  }
#define ATTNBENCH_VARIANT_WORKSPACE(symbol, ...) \
  if (args.variant == row++) return attnbench::uses_tile_counter<symbol##_config>() ? sizeof(int) : 0;

#define ATTNBENCH_FORWARD_LIBRARY(LIST)                                         \
  LIST(ATTNBENCH_VARIANT_KERNEL)                                                \
  static const AttnbenchVariant ATTNBENCH_TABLE[] = {LIST(ATTNBENCH_VARIANT_ROW)}; \
  static int32_t attnbench_launch_variant(const AttnbenchForwardArgs& args) {   \
    int row = 0;                                                                \
    LIST(ATTNBENCH_VARIANT_LAUNCH)                                              \
    return ATTNBENCH_UNSUPPORTED_VARIANT;                                       \
  }                                                                             \
  static uint64_t attnbench_variant_workspace(const AttnbenchForwardArgs& args) { \
    int row = 0;                                                                \
    LIST(ATTNBENCH_VARIANT_WORKSPACE)                                           \
    return 0;                                                                   \
  }                                                                             \
  ATTNBENCH_EXPORTS(ATTNBENCH_TABLE, attnbench_launch_variant, attnbench_variant_workspace)
