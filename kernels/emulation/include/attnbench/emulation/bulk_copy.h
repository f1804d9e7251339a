// TMA tile loads and stores (PTX ISA, "cp.async.bulk.tensor") with the 128-byte swizzle, out-of-bounds handling and
// bulk groups. Loads write shared memory, and stores read it, only when they are delivered.
#pragma once

#include <attnbench/emulation/mbarrier.h>

namespace attnbench::emulation {

// Where the 128-byte swizzle puts the byte at `address`: bits 4-6 exclusive-or bits 7-9 (PTX ISA, "Tensor swizzling
// modes"). The hardware applies it to the shared address itself.
inline uint32_t swizzle_128(uint32_t address) { return address ^ ((address >> 7 & 7u) << 4); }

inline uint32_t box_row_bytes(const TensorMap& map) {
  return static_cast<uint32_t>(map.box[0] * element_bytes(map.element));
}

inline uint32_t box_rows(const TensorMap& map) { return static_cast<uint32_t>(map.box[1] * map.box[2] * map.box[3]); }

inline uint32_t box_bytes(const TensorMap& map) { return box_row_bytes(map) * box_rows(map); }

// Calls visit(global pointer or null where out of bounds, shared offset of the row, elements in bounds) for each row of
// the box at `at`.
template <typename Visit>
inline void for_each_box_row(const TensorMap& map, const int (&at)[4], Visit visit) {
  uint32_t offset = 0;
  for (int i3 = 0; i3 < map.box[3]; ++i3) {
    for (int i2 = 0; i2 < map.box[2]; ++i2) {
      for (int i1 = 0; i1 < map.box[1]; ++i1, offset += box_row_bytes(map)) {
        const int64_t index[4] = {at[0], int64_t{at[1]} + i1, int64_t{at[2]} + i2, int64_t{at[3]} + i3};
        bool inside = true;
        int64_t bytes = 0;
        for (int d = 1; d < 4; ++d) {
          inside = inside && index[d] >= 0 && index[d] < map.sizes[d];
          bytes += index[d] * map.stride_bytes[d - 1];
        }
        visit(inside ? map.base + bytes : nullptr, offset, index[0]);
      }
    }
  }
}

// Bytes of a box row from element `first` on that lie in the tensor.
inline uint64_t inside_bytes(const TensorMap& map, int64_t first) {
  const int64_t begin = std::max<int64_t>(first, 0), end = std::min<int64_t>(first + map.box[0], map.sizes[0]);
  return begin < end ? static_cast<uint64_t>((end - begin) * element_bytes(map.element)) : 0;
}

// Copies one box row between global memory and the 16-byte chunks of its swizzled place in shared memory.
inline void copy_row_in(const TensorMap& map, const unsigned char* row, int64_t first, uint32_t destination) {
  const int bytes = element_bytes(map.element);
  unsigned char packed[128] = {};
  if (row && first >= 0 && first + map.box[0] <= map.sizes[0]) {
    std::memcpy(packed, row + first * bytes, box_row_bytes(map));
  } else if (row) {
    for (int i = 0; i < map.box[0]; ++i) {
      if (first + i >= 0 && first + i < map.sizes[0])
        std::memcpy(packed + i * bytes, row + (first + i) * bytes, static_cast<size_t>(bytes));
    }
  }
  for (uint32_t at = 0; at < box_row_bytes(map); at += 16) {
    std::memcpy(cta().shared + swizzle_128(destination + at), packed + at, 16);
  }
}

// ---- loads ----

inline bool valid_copy(const TensorMap& map, uint32_t shared_address, SiteId site) {
  // NOTE: 128 bytes is what the instruction needs; a box whose rows are to fall on the swizzle pattern that wgmma
  // descriptors assume must also start on a multiple of 1024, the pattern's period.
  if (shared_address % 1024 != 0) {
    hazard(Hazard::out_of_bounds, site, format("shared address 0x%x is not a multiple of 1024", shared_address));
  }
  return in_bounds(site, shared_address, box_bytes(map));
}

// Starts a copy to the shared memory at `destination`, to complete on `barrier`; both may be another CTA's. Returns its
// number among the loads of the barrier.
inline uint32_t start_load(const TensorMap& map, uint32_t destination, MBarrier& barrier, const int (&at)[4],
                           SiteId site, bool counted) {
  Cta& c = cta();
  if (launch.checked() && self().knowledge.fenced(barrier.initializer) < barrier.init_time) {
    hazard(
        Hazard::proxy_fence, site,
        "completes on " + barrier_text(barrier) + ", whose initialization no fence_mbarrier_init made visible to TMA",
        barrier.init_site);
  }
  const int index = c.barrier_at[barrier.address / 8];
  const uint32_t number = ++barrier.loads;
  const Agent agent = static_cast<Agent>(LOAD_AGENT + index);
  const uint32_t bytes = box_bytes(map);
  for_each_block(destination, bytes, [&](uint32_t block, uint64_t granules) {
    write_block(block, granules, {number, agent, site, ALL_BYTES, false});
  });
  ++self().time();
  if (launch.checked()) std::memset(c.shared + destination, POISON_BYTE, bytes);
  barrier.undelivered.push_back(number);
  c.loads.push_back({map, destination, index, number, {at[0], at[1], at[2], at[3]}, site, counted});
  post(Event::load, static_cast<int>(c.loads.size()) - 1);
  return number;
}

ATTNBENCH_OUT_OF_LINE void tma_load_4d(uint32_t destination, const TensorMap* map, uint32_t barrier_address, int c0,
                                       int c1, int c2, int c3, Where where) {
  const SiteId site = visit(Primitive::tma_load_4d, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_COORDINATE)) ++c1;
  MBarrier* barrier = find_barrier(barrier_address, site);
  if (!barrier || !valid_copy(*map, destination, site)) return;
  ++engine().statistics.tma_loads;
  start_load(*map, destination, *barrier, {c0, c1, c2, c3}, site, true);
}

inline void deliver_load(Load& load) {
  uint64_t bytes = 0;
  for_each_box_row(load.map, load.coordinates, [&](const unsigned char* row, uint32_t offset, int64_t first) {
    copy_row_in(load.map, row, first, load.destination + offset);
    if (row && load.counted) bytes += inside_bytes(load.map, first);
  });
  engine().counted.counts.global_read_bytes += bytes;
  engine().counted.tensor(load.map.base).read_bytes += bytes;
  MBarrier& barrier = cta().barrier[static_cast<size_t>(load.barrier)];
  auto& missing = barrier.undelivered;
  missing.erase(std::find(missing.begin(), missing.end(), load.number));
  // Whoever sees the phase complete knows all loads up to the first that is still missing.
  const uint32_t complete = missing.empty() ? barrier.loads : *std::min_element(missing.begin(), missing.end()) - 1;
  uint32_t& known = barrier.arrived.clocks.happened.time[LOAD_AGENT + load.barrier];
  known = std::max(known, complete);
  barrier.transaction_bytes -= box_bytes(load.map);
  complete_phase_if_due(barrier);
}

// ---- stores ----

inline StoreQueue* own_stores(SiteId site) {
  Thread& thread = self();
  if (thread.stores) return thread.stores.get();
  Cta& c = cta();
  if (c.store_slots.size() == MAX_STORING_THREADS) {
    fatal(Hazard::launch, site,
          format("more than %d threads issue bulk stores: raise MAX_STORING_THREADS", MAX_STORING_THREADS));
    return nullptr;
  }
  thread.stores = std::make_unique<StoreQueue>();
  thread.stores->slot = static_cast<int>(c.store_slots.size());
  thread.knowledge.store_agent = STORE_AGENT + thread.stores->slot;
  c.store_slots.push_back(thread.index);
  return thread.stores.get();
}

ATTNBENCH_OUT_OF_LINE void tma_store_4d(const TensorMap* map, uint32_t source, int c0, int c1, int c2, int c3,
                                        Where where) {
  const SiteId site = visit(Primitive::tma_store_4d, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_COORDINATE)) ++c1;
  StoreQueue* stores = own_stores(site);
  if (!stores || !valid_copy(*map, source, site)) return;
  const Agent agent = static_cast<Agent>(STORE_AGENT + stores->slot);
  for_each_block(source, box_bytes(*map), [&](uint32_t block, uint64_t granules) {
    read_block(block, granules, {stores->committed + 1, agent, site, ALL_BYTES, false});
  });
  stores->open.push_back({*map, source, {c0, c1, c2, c3}, site, {}});
  ++engine().statistics.tma_stores;
}

ATTNBENCH_OUT_OF_LINE void bulk_commit_group(Where where) {
  const SiteId site = visit(Primitive::bulk_commit_group, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  StoreQueue* stores = own_stores(site);
  if (!stores) return;
  stores->groups.push_back(std::move(stores->open));
  stores->open.clear();
  ++stores->committed;
  post(Event::store_read, self().index);
}

// The oldest unread group of `thread` reads its boxes from shared memory.
inline void deliver_store_read(Thread& thread) {
  StoreQueue& stores = *thread.stores;
  for (Store& store : stores.groups[stores.read - stores.written]) {
    store.captured.resize(box_bytes(store.map));
    for (uint32_t at = 0; at < store.captured.size(); at += 16) {
      std::memcpy(store.captured.data() + at, cta().shared + swizzle_128(store.source + at), 16);
    }
  }
  ++stores.read;
  wake(stores.waiters);
  post(Event::store_write, thread.index);
}

inline void deliver_store_write(Thread& thread) {
  StoreQueue& stores = *thread.stores;
  for (const Store& store : stores.groups.front()) {
    const TensorMap& map = store.map;
    const int bytes = element_bytes(map.element);
    uint64_t written = 0;
    for_each_box_row(map, store.coordinates, [&](unsigned char* row, uint32_t offset, int64_t first) {
      if (row) written += inside_bytes(map, first);
      for (int i = 0; row && i < map.box[0]; ++i) {
        if (first + i < 0 || first + i >= map.sizes[0]) continue;
        std::memcpy(row + (first + i) * bytes, store.captured.data() + offset + static_cast<uint32_t>(i * bytes),
                    static_cast<size_t>(bytes));
      }
    });
    engine().counted.counts.global_write_bytes += written;
    engine().counted.tensor(map.base).write_bytes += written;
  }
  stores.groups.pop_front();
  ++stores.written;
  wake(stores.waiters);
}

// Waits until at most `pending` of the thread's groups have not read (or, with `written`, not written) yet.
ATTNBENCH_OUT_OF_LINE void bulk_wait_group(int pending, bool written, Where where) {
  const SiteId site = visit(written ? Primitive::bulk_wait_group : Primitive::bulk_wait_group_read, where);
  before_blocking();
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_LAXER)) ++pending;
  Thread& thread = self();
  if (thread.stores) {
    StoreQueue& stores = *thread.stores;
    const uint32_t count = static_cast<uint32_t>(pending);
    const uint32_t needed = stores.committed > count ? stores.committed - count : 0;
    while ((written ? stores.written : stores.read) < needed) {
      park(stores.waiters, {Waiting::bulk_group, site, static_cast<int>(needed), 0});
    }
    thread.knowledge.bulk_groups = std::max(thread.knowledge.bulk_groups, needed);
  }
  after_blocking();
}

}  // namespace attnbench::emulation
