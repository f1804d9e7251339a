// What a launch did, counted: traffic, tensor work, exponentials, waits.
#pragma once

#include <attnbench/emulation.h>

#include <cstdint>
#include <vector>

namespace attnbench::emulation {

struct Counted {
  AttnbenchEmulationCounts counts = {};
  std::vector<AttnbenchEmulationTensor> tensors;  // in order of first copy

  AttnbenchEmulationTensor& tensor(const void* base) {
    for (AttnbenchEmulationTensor& known : tensors) {
      if (known.base == base) return known;
    }
    tensors.push_back({base, 0, 0});
    return tensors.back();
  }

  void add(const Counted& other) {
    counts.global_read_bytes += other.counts.global_read_bytes;
    counts.global_write_bytes += other.counts.global_write_bytes;
    counts.tensor_flops += other.counts.tensor_flops;
    counts.exponentials += other.counts.exponentials;
    counts.wgmma_shared_bytes += other.counts.wgmma_shared_bytes;
    counts.barrier_waits += other.counts.barrier_waits;
    for (const AttnbenchEmulationTensor& from : other.tensors) {
      AttnbenchEmulationTensor& to = tensor(from.base);
      to.read_bytes += from.read_bytes;
      to.write_bytes += from.write_bytes;
    }
  }
};

}  // namespace attnbench::emulation
