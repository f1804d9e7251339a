// Clusters of CTAs (PTX ISA, "barrier.cluster", "mapa"): CTAs that run together on multiprocessors of one GPC and reach
// each other's shared memory.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

// Number of this CTA within its cluster, of the cluster within the grid, and of all clusters.
// NOTE: volatile, so that they are read where they are needed: a producer has no register to keep them in.
ATTNBENCH_DEVICE int cluster_rank(Where = ATTNBENCH_WHERE) {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

ATTNBENCH_DEVICE int cluster_index(Where = ATTNBENCH_WHERE) {
  uint32_t index;
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  return static_cast<int>(index);
}

ATTNBENCH_DEVICE int cluster_count(Where = ATTNBENCH_WHERE) {
  uint32_t count;
  asm volatile("mov.u32 %0, %%nclusterid.x;" : "=r"(count));
  return static_cast<int>(count);
}

// The shared::cluster address, in CTA `rank` of the cluster, of what lies at `address` of this CTA.
ATTNBENCH_DEVICE uint32_t map_to_cta(uint32_t address, int rank, Where = ATTNBENCH_WHERE) {
  uint32_t mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

// Counts towards the cluster's barrier, which all threads of the cluster pass; the lanes of a warp together. What comes
// before is visible to whoever has waited.
ATTNBENCH_DEVICE void cluster_arrive(Where = ATTNBENCH_WHERE) {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

// Waits until every thread of the cluster that has not exited has arrived; the lanes of a warp together.
ATTNBENCH_DEVICE void cluster_wait(Where = ATTNBENCH_WHERE) {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

}  // namespace attnbench::ptx
