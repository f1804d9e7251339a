// What threads may do with registers that wgmma uses: fences, values read in flight, fragment stores.
#pragma once

#include <attnbench/emulation/barriers.h>
#include <attnbench/emulation/tensor_core.h>

namespace attnbench::emulation {

// ---- fences ----

inline RegisterUse* find_use(Thread& thread, const void* registers) {
  for (RegisterUse& use : thread.uses) {
    if (use.registers == registers) return &use;
  }
  return nullptr;
}

inline InFlight* find_in_flight(Thread& thread, const void* registers) {
  for (InFlight& entry : thread.in_flight) {
    if (entry.registers == registers) return &entry;
  }
  return nullptr;
}

ATTNBENCH_OUT_OF_LINE void wgmma_fence(Where where) {
  const SiteId site = visit(Primitive::wgmma_fence, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  Thread& thread = self();
  ++thread.fences;
  if (!launch.checked()) return;
  for (RegisterUse& use : thread.uses) {
    if (use.accumulator && find_in_flight(thread, use.registers)) continue;
    const auto* words = static_cast<const uint32_t*>(use.registers);
    use.at_fence.assign(words, words + use.words);
  }
}

inline bool changed_since_fence(const RegisterUse& use) {
  return !use.at_fence.empty() && std::memcmp(use.at_fence.data(), use.registers, use.at_fence.size() * 4) != 0;
}

// PTX ISA, "wgmma.fence": needed before the first wgmma, and between any access to registers and a wgmma that uses
// them, except accumulators passed from one wgmma to the next of the same shape.
inline void check_accumulator_fence(Thread& thread, const float* registers, int words, bool accumulate, SiteId site) {
  RegisterUse* use = find_use(thread, registers);
  if (!use) {
    if (thread.fences == 0) hazard(Hazard::wgmma_fence, site, "no wgmma_fence before the first wgmma");
    thread.uses.push_back({registers, words, true, 0, {}});
    return;
  }
  if (thread.fences <= use->fences_at_return) {
    hazard(Hazard::wgmma_fence, site, "no wgmma_fence since the accumulator registers came back");
  } else if (accumulate && changed_since_fence(*use)) {
    hazard(Hazard::wgmma_fence, site, "accumulator registers written after the last wgmma_fence");
  }
}

inline void check_fragment_fence(Thread& thread, const uint32_t* fragment, SiteId site) {
  RegisterUse* use = find_use(thread, fragment);
  if (!use) {
    if (thread.fences == 0) hazard(Hazard::wgmma_fence, site, "no wgmma_fence before the first wgmma");
    thread.uses.push_back({fragment, 4, false, 0, {}});
  } else if (changed_since_fence(*use)) {
    hazard(Hazard::wgmma_fence, site, "A fragment registers written after the last wgmma_fence");
  }
}

// ---- values made from registers in flight ----

// A NaN keeps its payload through arithmetic, so a value read from accumulator registers in flight is known by it. The
// conversions and stores that every result passes through look for it.
inline void check_value(float value, Where where) {
  if (__builtin_expect(bits_of(value) != POISON_REGISTER, 1)) return;
  const SiteId site = visit(Primitive::use_of_value, where);
  hazard(Hazard::accumulator, site, "uses a value read from accumulator registers while a wgmma was writing them");
}

// ---- fragment stores ----

// stmatrix .x4 (PTX ISA, "stmatrix"): lane i addresses row i % 8 of matrix i / 8; register r of lane l holds row l / 4,
// columns 2 (l % 4) and the next of matrix r; transposed, row and column change places.
ATTNBENCH_OUT_OF_LINE void stmatrix_x4(uint32_t address, const uint32_t (&value)[4], bool transposed, Where where) {
  const SiteId site = visit(Primitive::stmatrix, where);
  uint32_t words[4][32];
  for (int r = 0; r < 4; ++r) {
    const Rendezvous& meeting = meet(value[r], site, false);
    std::memcpy(words[r], meeting.values, sizeof words[r]);
  }
  const int matrix = self().lane() / 8, row = self().lane() % 8;
  uint16_t line[8];
  for (int column = 0; column < 8; ++column) {
    const int r = transposed ? column : row, c = transposed ? row : column;
    line[column] = static_cast<uint16_t>(words[matrix][r * 4 + c / 2] >> (c % 2 * 16));
  }
  store_shared(address, line, sizeof line, Primitive::stmatrix, where);
}

}  // namespace attnbench::emulation
