// Proxy fences (PTX ISA, "membar / fence": fence.proxy).
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// Orders this thread's ordinary shared-memory accesses before later accesses by the async proxy (TMA, wgmma).
// NOTE: every writing thread executes it, and only then the barrier that hands over to the issuing thread.
ATTNBENCH_DEVICE void fence_proxy_async_shared(Where = ATTNBENCH_WHERE) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace attnbench::ptx
