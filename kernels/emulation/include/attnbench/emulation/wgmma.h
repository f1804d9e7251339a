// wgmma as the hardware runs it: issued by 128 threads, executed later by the tensor core, waited for in groups.
//
// Smem operands and A fragments are read when the operation executes. Accumulator registers hold a poison NaN from the
// first wgmma that names them until the thread's covering wait_group.
#pragma once

#include <attnbench/emulation/wgmma_registers.h>

namespace attnbench::emulation {

constexpr int WARPGROUP_THREADS = 128;

// ---- issue ----

inline uint64_t mutate_descriptor(uint64_t bits, uint64_t previous, bool chained, bool mn_major, int extent,
                                  SiteId site, int first_kind) {
  const int kind = launch.config.mutation - first_kind;
  if (kind < 0 || kind > 4 || launch.config.mutation_site != site) return bits;
  uint64_t changed = bits;
  if (kind == 0) changed = (bits & ~uint64_t{0x3fff}) | ((bits + 2) & 0x3fff);
  if (kind == 1 && chained) changed = previous;
  if (kind == 2) changed += (bits >> 32 & 0x3fff) << 32;
  if (kind == 3 && uses_leading(Descriptor(bits), mn_major, extent)) changed += (bits >> 16 & 0x3fff) << 16;
  if (kind == 4) changed = (bits & ~(uint64_t{3} << 62)) | (uint64_t{2} << 62);
  if (changed != bits) ++engine().statistics.mutated;
  return changed;
}

// Checks and records the reads of one smem operand on behalf of the running thread's warp.
// `reads`: of the same operation's warps before it. Where nothing was written since, only this lane's knowledge is new.
inline void record_operand(OperandReads& reads, uint64_t bits, bool mn_major, int extent, const char* name,
                           SiteId site) {
  const Descriptor descriptor(bits);
  constexpr uint64_t RESERVED = uint64_t{3} << 30 | uint64_t{7} << 46 | uint64_t{0x3ff} << 52;
  if ((bits & RESERVED) != 0 || descriptor.base_offset != 0) {
    hazard(Hazard::descriptor, site,
           format("descriptor of %s 0x%016llx: reserved bits or a base offset are set", name,
                  static_cast<unsigned long long>(bits)));
  }
  const Thread& thread = self();
  const Access access = {thread.groups + 1, static_cast<Agent>(WGMMA_AGENT + thread.warpgroup()), site, 0xffff, false};
  if (reads.writes == cta().writes && reads.descriptor == bits && reads.time == access.time &&
      std::all_of(reads.writers.begin(), reads.writers.end(),
                  [](const Access& writer) { return ordered(writer) && fenced(writer); })) {
    return;
  }
  uint32_t chunks[MAX_CHUNKS];
  operand_chunks(descriptor, mn_major, extent, chunks);
  reads.writes = 0;
  reads.writers.clear();
  const auto bounds = std::minmax_element(chunks, chunks + chunk_count(extent));
  if (!in_bounds(site, *bounds.first, GRANULE_BYTES) || !in_bounds(site, *bounds.second, GRANULE_BYTES)) return;
  GranuleSet& touched = engine().touched;
  for (int i = 0; i < chunk_count(extent); ++i) touched.add(chunks[i]);
  touched.each([&](uint32_t block, uint64_t granules) { read_block(block, granules, access, &reads.writers); });
  touched.clear();
  reads.descriptor = bits;
  reads.time = access.time;
  reads.writes = cta().writes;
}

inline void execute_operations(Warpgroup& group, uint32_t first, uint32_t last);

// The operation that the thread's next issue belongs to; made by the first of the 128 threads.
inline WgmmaOperation& next_operation(const WgmmaShape& shape, uint64_t descriptor_a, uint64_t descriptor_b,
                                      const InFlight* chain, SiteId site) {
  Thread& thread = self();
  OperationQueue& operations = thread.group->operations;
  if (thread.operations == operations.end()) {
    WgmmaOperation& op = operations.append();
    op.shape = &shape;
    op.descriptor_a = descriptor_a;
    op.descriptor_b = descriptor_b;
    op.site = site;
    op.issued = 0;
    op.executed = false;
    op.reads_a.writes = op.reads_b.writes = 0;
    op.accumulator = chain ? chain->accumulator : cta().accumulators.take(shape.columns, WARPGROUP_THREADS);
    return op;
  }
  WgmmaOperation& op = operations[thread.operations];
  if (op.shape != &shape || op.site != site || op.descriptor_b != descriptor_b || op.descriptor_a != descriptor_a) {
    hazard(Hazard::divergence, site,
           "other threads of the warpgroup issue another wgmma at " + launch.sites.text(op.site), op.site);
  }
  return op;
}

// Calls visit(first register, place in the accumulator) for each pair of registers of a thread, which lie side by side
// in a row: accumulator_row and accumulator_column without the divisions.
template <typename Visit>
inline void for_each_register_pair(int thread, int columns, Visit visit) {
  const int first = accumulator_row(thread, 0) * columns + accumulator_column(thread, 0);
  for (int block = 0; block < columns / BLOCK_COLUMNS; ++block) {
    visit(4 * block, first + block * BLOCK_COLUMNS);
    visit(4 * block + 2, first + 8 * columns + block * BLOCK_COLUMNS);
  }
}

// Takes the thread's accumulator registers into the tensor core: saves their values where they count, then poisons
// them.
ATTNBENCH_OUT_OF_LINE void enter_accumulator(const WgmmaOperation& op, float* registers, uint32_t number) {
  Thread& thread = self();
  const int columns = op.shape->columns, words = columns / 2;
  for (const InFlight& entry : thread.in_flight) {
    if (registers < entry.registers + entry.accumulator->columns / 2 && entry.registers < registers + words) {
      hazard(Hazard::accumulator, op.site, "registers of another shape or thread order are in flight");
      return;
    }
  }
  if (launch.checked()) check_accumulator_fence(thread, registers, words, op.shape->accumulate, op.site);
  if (op.shape->accumulate) {
    float* value = op.accumulator->value.data();
    for_each_register_pair(thread.index % WARPGROUP_THREADS, columns,
                           [&](int r, int at) { std::memcpy(value + at, registers + r, 2 * sizeof(float)); });
  }
  if (launch.checked()) {
    for (int r = 0; r < words; ++r) registers[r] = float_of(POISON_REGISTER);
  }
  thread.in_flight.push_back({registers, op.accumulator, number});
}

struct MutatedDescriptors {
  uint64_t a, b;
};

ATTNBENCH_OUT_OF_LINE MutatedDescriptors mutate_descriptors(const WgmmaShape& shape, uint64_t a, uint64_t b,
                                                            bool chained, SiteId site) {
  Thread& thread = self();
  MutatedDescriptors changed = {a, b};
  if (!shape.from_registers) {
    changed.a = mutate_descriptor(a, thread.descriptor_a, chained, shape.transpose_a, WGMMA_ROWS, site,
                                  ATTNBENCH_MUTATION_A_START);
    thread.descriptor_a = a;
  }
  changed.b = mutate_descriptor(b, thread.descriptor_b, chained, shape.transpose_b, shape.columns, site,
                                ATTNBENCH_MUTATION_B_START);
  thread.descriptor_b = b;
  return changed;
}

// What full checks look at when a thread issues.
ATTNBENCH_OUT_OF_LINE void check_issue(WgmmaOperation& op, const uint32_t* fragment, SiteId site) {
  Thread& thread = self();
  const WgmmaShape& shape = *op.shape;
  if (shape.from_registers) {
    check_fragment_fence(thread, fragment, site);
    std::memcpy(op.issued_fragment_a[thread.index % WARPGROUP_THREADS], fragment, 16);
  }
  // Once per warp: the warp's lanes are converged here (.aligned), and each lane's knowledge alone must do.
  if (thread.lane() != 0) return;
  if (!shape.from_registers) record_operand(op.reads_a, op.descriptor_a, shape.transpose_a, WGMMA_ROWS, "A", site);
  record_operand(op.reads_b, op.descriptor_b, shape.transpose_b, shape.columns, "B", site);
}

// `a`: descriptor of A, or where its fragment is.
ATTNBENCH_OUT_OF_LINE void wgmma_issue(const WgmmaShape& shape, uint64_t a, uint64_t descriptor_b, float* registers,
                                       Where where) {
  const SiteId site = visit(shape.from_registers ? Primitive::wgmma_rs : Primitive::wgmma_ss, where);
  Thread& thread = self();
  InFlight* chain = find_in_flight(thread, registers);
  uint64_t descriptor_a = shape.from_registers ? 0 : a;
  if (launch.config.mutation != ATTNBENCH_MUTATION_NONE) {
    const MutatedDescriptors changed = mutate_descriptors(shape, descriptor_a, descriptor_b, chain != nullptr, site);
    descriptor_a = changed.a;
    descriptor_b = changed.b;
  }
  const uint32_t number = thread.operations;
  WgmmaOperation& op = next_operation(shape, descriptor_a, descriptor_b, chain, site);
  if (chain && chain->accumulator == op.accumulator && chain->accumulator->columns == shape.columns) {
    chain->last_operation = number;
  } else {
    enter_accumulator(op, registers, number);
  }
  const auto* fragment = reinterpret_cast<const uint32_t*>(a);
  if (shape.from_registers) op.fragment_a[thread.index % WARPGROUP_THREADS] = fragment;
  if (launch.checked()) check_issue(op, fragment, site);
  ++thread.operations;
  if (++op.issued == WARPGROUP_THREADS && launch.config.delivery == ATTNBENCH_DELIVERY_EAGER) {
    execute_operations(*thread.group, number, number + 1);
  }
}

// ---- execution ----

inline void check_fragment_untouched(const WgmmaOperation& op) {
  for (int t = 0; t < WARPGROUP_THREADS; ++t) {
    if (std::memcmp(op.fragment_a[t], op.issued_fragment_a[t], 16) == 0) continue;
    hazard(Hazard::operand, op.site,
           format("A fragment registers of lane %d, warp %d of the warpgroup, overwritten in flight", t % 32, t / 32));
    return;
  }
}

// Takes the operands of one more instruction to those gathered.
inline void gather(const WgmmaOperation& op, Operands& operands) {
  if (op.shape->from_registers) {
    if (launch.checked()) check_fragment_untouched(op);
    gather_fragment_a(op, operands.k, operands);
  } else {
    gather_a(op, operands.k, operands);
  }
  gather_b(op, operands.k, operands);
  operands.k += instruction_k(op.shape->element);
}

// Whether `next` adds to what `op` has summed, so that both can be multiplied at once: to the same bits.
inline bool continues(const WgmmaOperation& op, const WgmmaOperation& next) {
  return next.shape->accumulate && next.accumulator == op.accumulator && next.shape->element == op.shape->element &&
         next.shape->columns == op.shape->columns && !next.executed;
}

inline Operands& own_operands() {
  if (!engine().operands) engine().operands = std::make_shared<Operands>();
  return *engine().operands;
}

inline void count_operation(const WgmmaOperation& op) {
  ++engine().statistics.wgmma;
  AttnbenchEmulationCounts& counts = engine().counted.counts;
  counts.tensor_flops += uint64_t{2} * WGMMA_ROWS * static_cast<uint64_t>(op.shape->columns * instruction_k(op.shape->element));
  const int rows_read = op.shape->columns + (op.shape->from_registers ? 0 : WGMMA_ROWS);
  counts.wgmma_shared_bytes += static_cast<uint64_t>(rows_read * INSTRUCTION_K_BYTES);
}

// Executes operations `first` to `last` - 1 of the warpgroup, those that stand on one accumulator together.
inline void execute_operations(Warpgroup& group, uint32_t first, uint32_t last) {
  OperationQueue& operations = group.operations;
  Operands& operands = own_operands();
  while (first < last) {
    WgmmaOperation& op = operations[first];
    if (op.executed) {
      ++first;
      continue;
    }
    const bool truncated =
        op.shape->element == Element::e4m3 && launch.config.accumulator == ATTNBENCH_EMULATED_ACCUMULATOR_TRUNCATED;
    const int most = truncated ? instruction_k(op.shape->element) : MAX_STEPS;
    operands.k = 0;
    operands.columns = op.shape->columns;
    uint32_t next = first;
    do {
      gather(operations[next], operands);
      operations[next].executed = true;
      count_operation(operations[next]);
      ++next;
    } while (next < last && operands.k + instruction_k(op.shape->element) <= most && continues(op, operations[next]));
    float* value = op.accumulator->value.data();
    if (truncated) {
      if (!op.shape->accumulate) std::fill(value, value + WGMMA_ROWS * op.shape->columns, 0.0f);
      multiply_accumulate_truncated(operands, value);
    } else if (op.shape->accumulate) {
      multiply_accumulate<false>(operands, value);
    } else {
      multiply_accumulate<true>(operands, value);
    }
    first = next;
  }
}

// The warpgroup's oldest committed group executes.
inline void deliver_group(Warpgroup& group) {
  const uint32_t end = group.group_ends[group.groups_done];
  execute_operations(group, group.operations.first(), end);
  while (group.operations.first() < end) group.operations.drop_first();
  ++group.groups_done;
  wake(group.waiters);
}

// ---- commit and wait ----

ATTNBENCH_OUT_OF_LINE void wgmma_commit_group(Where where) {
  const SiteId site = visit(Primitive::wgmma_commit_group, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  Thread& thread = self();
  Warpgroup& group = *thread.group;
  if (thread.groups == group.group_ends.size()) {
    group.group_ends.push_back(thread.operations);
    group.group_commits.push_back(0);
  } else if (group.group_ends[thread.groups] != thread.operations) {
    hazard(Hazard::divergence, site, "threads of the warpgroup commit different numbers of wgmma");
  }
  const uint32_t number = thread.groups++;
  thread.operations_committed = thread.operations;
  if (++group.group_commits[number] == WARPGROUP_THREADS) {
    post(Event::wgmma_group, thread.warpgroup());
  }
}

// NOTE: first all of them together, which the compiler does by vectors.
inline void check_still_poisoned(const InFlight& entry, SiteId site) {
  const int words = entry.accumulator->columns / 2;
  uint32_t changed = 0;
  for (int r = 0; r < words; ++r) changed |= bits_of(entry.registers[r]) ^ POISON_REGISTER;
  if (changed == 0) return;
  int first = 0;
  while (bits_of(entry.registers[first]) == POISON_REGISTER) ++first;
  hazard(Hazard::accumulator, site, format("accumulator register %d was written while in flight", first));
}

// Gives the thread its part of a finished accumulator.
inline void return_fragment(const InFlight& entry, SiteId site) {
  Thread& thread = self();
  if (launch.checked()) check_still_poisoned(entry, site);
  const float* value = entry.accumulator->value.data();
  for_each_register_pair(thread.index % WARPGROUP_THREADS, entry.accumulator->columns,
                         [&](int r, int at) { std::memcpy(entry.registers + r, value + at, 2 * sizeof(float)); });
  cta().accumulators.returned(entry.accumulator);
  if (RegisterUse* use = find_use(thread, entry.registers)) use->fences_at_return = thread.fences;
}

ATTNBENCH_OUT_OF_LINE void wgmma_wait_group(int pending, Where where) {
  const SiteId site = visit(Primitive::wgmma_wait_group, where);
  before_blocking();
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_LAXER)) ++pending;
  Thread& thread = self();
  Warpgroup& group = *thread.group;
  const uint32_t count = static_cast<uint32_t>(pending);
  const uint32_t needed = thread.groups > count ? thread.groups - count : 0;
  while (group.groups_done < needed) park(group.waiters, {Waiting::wgmma, site, static_cast<int>(needed), 0});
  if (needed > 0) {
    thread.knowledge.wgmma_groups = std::max(thread.knowledge.wgmma_groups, needed);
    const uint32_t end = group.group_ends[needed - 1];
    size_t kept = 0;
    for (InFlight& entry : thread.in_flight) {
      if (entry.last_operation >= end) {
        thread.in_flight[kept++] = entry;
      } else {
        return_fragment(entry, site);
      }
    }
    thread.in_flight.resize(kept);
  }
  after_blocking();
}

}  // namespace attnbench::emulation
