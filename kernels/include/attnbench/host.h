// Host side of a kernel: tensor maps and launches over the CUDA runtime (linked statically).
//
// The driver is reached only through cudaGetDriverEntryPointByVersion, so a library loads on a machine without a
// driver and its calls return a status. The emulated build has a header of the same name and functions.
#pragma once

#include <attnbench/abi.h>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/tma.cuh>
#include <attnbench/validate.h>

#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace attnbench {

// Text for a cudaError_t that a status above ATTNBENCH_HOST_ERROR_BASE carries.
inline const char* host_error_string(int32_t error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// Status for a CUDA runtime error. Clears it, so that the caller's next CUDA call does not report it again.
inline int32_t status_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return ATTNBENCH_OK;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorStubLibrary:
    case cudaErrorInitializationError: cudaGetLastError(); return ATTNBENCH_NO_DRIVER;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction: cudaGetLastError(); return ATTNBENCH_WRONG_ARCHITECTURE;
    default: cudaGetLastError(); return ATTNBENCH_HOST_ERROR_BASE + static_cast<int32_t>(error);
  }
}

inline int32_t device_attribute(int* out, cudaDeviceAttr attribute) {
  int device = 0;
  if (int32_t status = status_of(cudaGetDevice(&device))) return status;
  return status_of(cudaDeviceGetAttribute(out, attribute, device));
}

// Streaming multiprocessors of the current device.
inline int32_t multiprocessor_count(int* out) { return device_attribute(out, cudaDevAttrMultiProcessorCount); }

// sm_90a code runs on compute capability 9.0 alone (CUDA C++ Programming Guide, architecture-specific features).
inline int32_t check_device() {
  int major = 0, minor = 0;
  if (int32_t status = device_attribute(&major, cudaDevAttrComputeCapabilityMajor)) return status;
  if (int32_t status = device_attribute(&minor, cudaDevAttrComputeCapabilityMinor)) return status;
  return major == 9 && minor == 0 ? ATTNBENCH_OK : ATTNBENCH_WRONG_ARCHITECTURE;
}

using EncodeTiledFunction = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                         const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                                         CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                         CUtensorMapFloatOOBfill);

// First driver interface that has cuTensorMapEncodeTiled.
constexpr unsigned int TENSOR_MAP_DRIVER_VERSION = 12000;

inline int32_t encode_tiled_function(EncodeTiledFunction* out) {
  static std::atomic<EncodeTiledFunction> found{nullptr};  // looked up once; again after a failure
  if (found == nullptr) {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               TENSOR_MAP_DRIVER_VERSION, cudaEnableDefault, &result);
    if (int32_t status = status_of(error)) return status;
    if (result != cudaDriverEntryPointSuccess) return ATTNBENCH_NO_DRIVER;
    found = reinterpret_cast<EncodeTiledFunction>(entry);
  }
  *out = found;
  return ATTNBENCH_OK;
}

inline CUtensorMapDataType tensor_map_dtype(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case Dtype::bf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case Dtype::e4m3: return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  }
  return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

// An invalid value is a refusal of the map itself. Anything else is an error of the context, such as an illegal address
// in an earlier kernel, which the runtime numbers as the driver does (CUDA Runtime API, cudaError_t).
inline int32_t status_of_map(CUresult result) {
  if (result == CUDA_SUCCESS) return ATTNBENCH_OK;
  return result == CUDA_ERROR_INVALID_VALUE ? ATTNBENCH_TENSOR_MAP_ERROR : status_of(static_cast<cudaError_t>(result));
}

// Describes a 4-D tensor to the TMA unit: 128-byte swizzle, zero fill outside.
// sizes: elements of (head_dim, seqlen, heads, batch). strides: elements between (seqlen, head, batch) neighbours.
// box: elements of one copy in the order of sizes; box[0] is at most 128 bytes wide (PTX ISA, tensor swizzling).
// The stride of a dimension of size 1 is replaced by that of a packed tensor, since callers may leave anything there.
inline int32_t encode_tensor_map(ptx::TensorMap* map, Dtype dtype, const void* base, const int64_t sizes[4],
                                 const int64_t strides[3], const int box[4]) {
  EncodeTiledFunction encode = nullptr;
  if (int32_t status = encode_tiled_function(&encode)) return status;
  const int64_t bytes = dtype == Dtype::e4m3 ? 1 : 2;
  cuuint64_t global_size[4], global_stride_bytes[3];
  cuuint32_t box_size[4], element_stride[4];
  for (int i = 0; i < 4; ++i) {
    global_size[i] = static_cast<cuuint64_t>(sizes[i]);
    box_size[i] = static_cast<cuuint32_t>(box[i]);
    element_stride[i] = 1;
  }
  cuuint64_t packed_bytes = global_size[0] * static_cast<cuuint64_t>(bytes);
  for (int i = 0; i < 3; ++i) {
    const cuuint64_t unused = packed_bytes < TMA_STRIDE_LIMIT_BYTES ? packed_bytes : TMA_ALIGNMENT_BYTES;
    global_stride_bytes[i] = sizes[i + 1] == 1 ? unused : static_cast<cuuint64_t>(strides[i] * bytes);
    packed_bytes = global_stride_bytes[i] * global_size[i + 1];
  }
  const CUresult result =
      encode(reinterpret_cast<CUtensorMap*>(map), tensor_map_dtype(dtype), 4, const_cast<void*>(base), global_size,
             global_stride_bytes, box_size, element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status_of_map(result);
}

// Keeps a parameter out of template deduction, so that the kernel's own signature decides the types.
template <typename T>
struct AsDeclared {
  using type = T;
};

// Allows `kernel` that much dynamic shared memory on the current device.
// NOTE: before tensor maps are encoded. A host thread that has done nothing with CUDA yet has no context. Device
// queries need none, and a driver call may then return CUDA_ERROR_INVALID_CONTEXT, which cuTensorMapEncodeTiled lists
// (cuDNN did so: pull request 626 of NVIDIA/cudnn-frontend). This is the first call that makes one current.
template <typename... Parameters>
int32_t allow_shared_memory(void (*kernel)(Parameters...), int shared_bytes) {
  return status_of(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
}

// Enqueues `kernel` over a one-dimensional grid with `shared_bytes` of dynamic shared memory, which it was allowed.
template <typename... Parameters>
int32_t launch(void (*kernel)(Parameters...), int grid, int threads, int shared_bytes, void* stream,
               typename AsDeclared<Parameters>::type... parameters) {
  void* addresses[] = {const_cast<void*>(static_cast<const void*>(&parameters))...};
  return status_of(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(grid)),
                                    dim3(static_cast<unsigned>(threads)), addresses, static_cast<size_t>(shared_bytes),
                                    static_cast<cudaStream_t>(stream)));
}

// What a launch in clusters of `cluster` CTAs hands to the runtime; `attribute` must outlive it.
inline cudaLaunchConfig_t cluster_config(int cluster, int clusters, int threads, int shared_bytes, void* stream,
                                         cudaLaunchAttribute* attribute) {
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * cluster));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attribute;
  config.numAttrs = 1;
  return config;
}

// Clusters of `cluster` CTAs that fit the current device at a time: fewer than multiprocessors / cluster where a GPC
// has a number of multiprocessors that `cluster` does not divide. 0 is an error.
template <typename... Parameters>
int32_t active_clusters(void (*kernel)(Parameters...), int cluster, int threads, int shared_bytes, int* out) {
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = cluster_config(cluster, 1, threads, shared_bytes, nullptr, &attribute);
  const cudaError_t error = cudaOccupancyMaxActiveClusters(out, reinterpret_cast<const void*>(kernel), &config);
  return status_of(error == cudaSuccess && *out < 1 ? cudaErrorLaunchOutOfResources : error);
}

// The same as launch, for `clusters` clusters of `cluster` CTAs.
template <typename... Parameters>
int32_t launch_clusters(void (*kernel)(Parameters...), int cluster, int clusters, int threads, int shared_bytes,
                        void* stream, typename AsDeclared<Parameters>::type... parameters) {
  void* addresses[] = {const_cast<void*>(static_cast<const void*>(&parameters))...};
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = cluster_config(cluster, clusters, threads, shared_bytes, stream, &attribute);
  return status_of(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), addresses));
}

// Zeroes device memory in stream order (a tile counter in the workspace, say).
inline int32_t zero_async(void* memory, uint64_t bytes, void* stream) {
  return status_of(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
}

}  // namespace attnbench
