// Emulated proxy fence; see kernels/include/attnbench/ptx/fence.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE void fence_proxy_async_shared(Where where = ATTNBENCH_WHERE) { emulation::fence_proxy_async(where); }

}  // namespace attnbench::ptx
