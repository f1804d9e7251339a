// mbarrier: phase-tracked barriers in shared memory (PTX ISA, "Parallel Synchronization and Communication
// Instructions: mbarrier"). A barrier is an 8-byte object named by its shared::cta address.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// Sets the arrival count of each phase; the barrier starts in phase 0 with nothing arrived.
ATTNBENCH_DEVICE void mbarrier_init(uint32_t barrier, uint32_t count, Where = ATTNBENCH_WHERE) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// Makes preceding mbarrier_init visible to the async proxy (TMA) and to other threads that synchronize afterwards.
ATTNBENCH_DEVICE void fence_mbarrier_init(Where = ATTNBENCH_WHERE) {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

ATTNBENCH_DEVICE void mbarrier_arrive(uint32_t barrier, Where = ATTNBENCH_WHERE) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// An arrival on a barrier of any CTA of the cluster, by its shared::cluster address (map_to_cta).
// NOTE: without a scope, as CUTLASS has it. With .release.cluster ptxas 13.5 puts MEMBAR.ALL.GPU before it, which waits
// for all that the thread has stored to global memory; but what is handed back was read by the async proxy, and waited
// for.
ATTNBENCH_DEVICE void mbarrier_arrive_cluster(uint32_t barrier, Where = ATTNBENCH_WHERE) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival that also announces `bytes` of asynchronous copies; the phase completes when all arrivals and all
// announced bytes have come.
ATTNBENCH_DEVICE void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes, Where = ATTNBENCH_WHERE) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// True once the phase with this parity has completed. May return false spuriously (it suspends for a bounded time).
// NOTE: on a fresh barrier parity 1 counts as completed, parity 0 does not.
ATTNBENCH_DEVICE bool mbarrier_try_wait_parity(uint32_t barrier, uint32_t parity, Where = ATTNBENCH_WHERE) {
  uint32_t complete;
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
      "selp.u32 %0, 1, 0, complete;\n"
      "}"
      : "=r"(complete)
      : "r"(barrier), "r"(parity)
      : "memory");
  return complete != 0;
}

// A name for the emulation's reports; costs nothing on the device.
ATTNBENCH_DEVICE void name_barrier(uint32_t, const char*, int = 0) {}

}  // namespace attnbench::ptx
