// Emulated clusters; see kernels/include/attnbench/ptx/cluster.cuh.
#pragma once

#include <attnbench/device.cuh>

namespace attnbench::ptx {

ATTNBENCH_DEVICE int cluster_rank(Where = ATTNBENCH_WHERE) { return emulation::self().rank; }

ATTNBENCH_DEVICE int cluster_index(Where = ATTNBENCH_WHERE) { return emulation::cta().block; }

ATTNBENCH_DEVICE int cluster_count(Where = ATTNBENCH_WHERE) {
  return emulation::launch.grid / emulation::launch.cluster;
}

ATTNBENCH_DEVICE uint32_t map_to_cta(uint32_t address, int rank, Where where = ATTNBENCH_WHERE) {
  return emulation::map_to_cta(address, rank, where);
}

ATTNBENCH_DEVICE void cluster_arrive(Where where = ATTNBENCH_WHERE) { emulation::cluster_arrive(where); }

ATTNBENCH_DEVICE void cluster_wait(Where where = ATTNBENCH_WHERE) { emulation::cluster_wait(where); }

}  // namespace attnbench::ptx
