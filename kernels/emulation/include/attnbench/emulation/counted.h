// What a launch did, counted: traffic, tensor work, exponentials, waits.
#pragma once

#include <attnbench/emulation.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace attnbench::emulation {

// Adds each field of a structure that holds nothing but 64-bit counters.
template <typename Counters>
inline void add_counters(Counters& to, const Counters& from) {
  static_assert(std::is_trivially_copyable<Counters>::value && sizeof(Counters) % sizeof(uint64_t) == 0, "counters");
  uint64_t sums[sizeof(Counters) / sizeof(uint64_t)], more[sizeof sums / sizeof sums[0]];
  std::memcpy(sums, &to, sizeof sums);
  std::memcpy(more, &from, sizeof more);
  for (size_t i = 0; i < sizeof sums / sizeof sums[0]; ++i) sums[i] += more[i];
  std::memcpy(&to, sums, sizeof sums);
}

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
    add_counters(counts, other.counts);
    for (const AttnbenchEmulationTensor& from : other.tensors) {
      AttnbenchEmulationTensor& to = tensor(from.base);
      to.read_bytes += from.read_bytes;
      to.write_bytes += from.write_bytes;
    }
  }
};

}  // namespace attnbench::emulation
