// Named barriers of the CTA (PTX ISA, "bar.sync, bar.arrive"): 16 of them, number 0 is __syncthreads().
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// Waits until `threads` threads (a multiple of 32) have arrived or synchronized on barrier `id`.
ATTNBENCH_DEVICE void barrier_sync(int id, int threads, Where = ATTNBENCH_WHERE) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts towards barrier `id` without waiting.
ATTNBENCH_DEVICE void barrier_arrive(int id, int threads, Where = ATTNBENCH_WHERE) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

ATTNBENCH_DEVICE void cta_sync(Where = ATTNBENCH_WHERE) { asm volatile("bar.sync 0;" ::: "memory"); }

}  // namespace attnbench::ptx
