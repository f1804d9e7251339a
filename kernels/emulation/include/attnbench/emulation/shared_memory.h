// Shared memory accesses with race and proxy checks at 16-byte granularity (bytes within a granule told apart): of
// ordinary instructions one granule at a time, of the asynchronous units one block of 64 granules.
#pragma once

#include <attnbench/emulation/engine.h>

namespace attnbench::emulation {

// Of which CTA a thread is, where there are several.
inline std::string member_text(int thread) {
  return cta().ctas == 1 ? "" : " of CTA " + std::to_string(first_block() + thread / cta().cta_threads);
}

inline std::string thread_text(const char* verb, int thread) {
  return verb + std::to_string(thread % cta().cta_threads / 32) + member_text(thread);
}

// " for full_k[1]", " by warp 4", " of warpgroup 1": whose access it is.
inline std::string agent_text(Agent agent) {
  if (agent >= THREAD_AGENT) return thread_text(" by warp ", agent - THREAD_AGENT);
  if (agent >= STORE_AGENT) {
    return thread_text(" issued by warp ", cta().store_slots[static_cast<size_t>(agent - STORE_AGENT)]);
  }
  if (agent >= LOAD_AGENT) return " for " + barrier_text(cta().barrier[static_cast<size_t>(agent - LOAD_AGENT)]);
  const int warpgroup = agent - WGMMA_AGENT, warpgroups = std::max(cta().cta_threads / 128, 1);
  return " of warpgroup " + std::to_string(warpgroup % warpgroups) + member_text(warpgroup * 128);
}

inline std::string access_text(const Access& access) {
  return launch.sites.text(access.site) + agent_text(access.agent);
}

// False, after a report, where [address, address + bytes) is not all inside the shared memory of the thread's CTA.
inline bool in_bounds(SiteId site, uint32_t address, uint32_t bytes) {
  const uint32_t own = address - self().window;  // wraps where it lies below
  if (own >= SHARED_BASE && static_cast<uint64_t>(own) + bytes <= cta().shared_end) return true;
  fatal(Hazard::out_of_bounds, site,
        format("shared memory 0x%x..0x%x, the launch has 0x%x..0x%x", address, address + bytes, SHARED_BASE,
               cta().shared_end));
  return false;
}

inline bool ordered(const Access& earlier) { return self().knowledge.happened(earlier.agent) >= earlier.time; }

inline bool fenced(const Access& earlier) {
  return !earlier.generic || self().knowledge.fenced(earlier.agent) >= earlier.time;
}

ATTNBENCH_OUT_OF_LINE void report_race(const Access& access, const Access& earlier, uint32_t address,
                                       const char* verb) {
  hazard(Hazard::race, access.site,
         format("%s shared memory 0x%x%s, not ordered after ", verb, address, agent_text(access.agent).c_str()) +
             access_text(earlier),
         earlier.site);
}

ATTNBENCH_OUT_OF_LINE void report_proxy(const Access& access, const Access& earlier, uint32_t address,
                                        const char* verb) {
  hazard(Hazard::proxy_fence, access.site,
         format("%s shared memory 0x%x through the async proxy without a proxy fence after ", verb, address) +
             access_text(earlier),
         earlier.site);
}

template <typename Visit>
inline void for_each_bit(uint64_t bits, Visit visit) {
  for (; bits != 0; bits &= bits - 1) visit(static_cast<uint32_t>(__builtin_ctzll(bits)));
}

inline uint32_t granule_address(uint32_t block, uint64_t granules) {
  return block * BLOCK_BYTES + static_cast<uint32_t>(__builtin_ctzll(granules)) * GRANULE_BYTES;
}

// `access`, which reads, after the write `earlier` of the same bytes.
inline void check_read(const Access& access, const Access& earlier, uint32_t address) {
  if (!ordered(earlier)) {
    report_race(access, earlier, address, "reads");
  } else if (!access.generic && !fenced(earlier)) {
    report_proxy(access, earlier, address, "reads");
  }
}

inline void check_overwrite(const Access& access, const Access& earlier, uint32_t address, bool earlier_wrote) {
  if (!ordered(earlier)) {
    report_race(access, earlier, address, "overwrites");
  } else if (earlier_wrote && !access.generic && !fenced(earlier)) {
    report_proxy(access, earlier, address, "overwrites");
  }
}

// ---- asynchronous units: whole granules of a block, on behalf of the running thread ----

// Adds to `met` whose data is read, each once.
inline void read_block(uint32_t number, uint64_t granules, const Access& access, std::vector<Access>* met = nullptr) {
  if (!launch.checked()) return;
  Cta& c = cta();
  Block& block = c.blocks[number];
  const auto meet = [&](const Access& writer) {
    if (met && std::none_of(met->begin(), met->end(), [&](const Access& known) { return known.same(writer); })) {
      met->push_back(writer);
    }
  };
  for (const BlockAccess& writer : block.writers) {
    const uint64_t common = writer.granules & granules;
    if (common == 0) continue;
    check_read(access, writer.access, granule_address(number, common));
    meet(writer.access);
  }
  for_each_bit(block.single & granules, [&](uint32_t bit) {
    AccessList& writers = c.granule[number * BLOCK_GRANULES + bit].writers;
    for (int i = 0; i < writers.size(); ++i) {
      check_read(access, writers[i], number * BLOCK_BYTES + bit * GRANULE_BYTES);
      meet(writers[i]);
    }
  });
  block.readers.add(access, granules);
}

inline void report_barrier_overwritten(const Access& access, uint32_t address) {
  hazard(Hazard::mbarrier, access.site, format("writes over the mbarrier at 0x%x", address));
}

inline void write_block(uint32_t number, uint64_t granules, const Access& access) {
  if (!launch.checked()) return;
  Cta& c = cta();
  Block& block = c.blocks[number];
  for (const BlockAccess& writer : block.writers) {
    const uint64_t common = writer.granules & granules;
    if (common != 0) check_overwrite(access, writer.access, granule_address(number, common), true);
  }
  for (const BlockAccess& reader : block.readers) {
    const uint64_t common = reader.granules & granules;
    if (common != 0) check_overwrite(access, reader.access, granule_address(number, common), false);
  }
  for_each_bit(block.single & granules, [&](uint32_t bit) {
    Granule& granule = c.granule[number * BLOCK_GRANULES + bit];
    const uint32_t address = number * BLOCK_BYTES + bit * GRANULE_BYTES;
    for (int i = 0; i < granule.writers.size(); ++i) check_overwrite(access, granule.writers[i], address, true);
    for (int i = 0; i < granule.readers.size(); ++i) check_overwrite(access, granule.readers[i], address, false);
    granule.writers.clear();
    granule.readers.clear();
  });
  for_each_bit(block.barriers & granules,
               [&](uint32_t bit) { report_barrier_overwritten(access, number * BLOCK_BYTES + bit * GRANULE_BYTES); });
  ++c.writes;
  block.single &= ~granules;
  block.writers.cover(granules);
  block.readers.cover(granules);
  block.writers.add(access, granules);
}

// Calls visit(block, granules) for each block that [address, address + bytes) touches; whole granules.
template <typename Visit>
inline void for_each_block(uint32_t address, uint32_t bytes, Visit visit) {
  uint64_t granules = 0;
  for (uint32_t at = address; at < address + bytes; at += GRANULE_BYTES) {
    granules |= granule_bit(at);
    if (at + GRANULE_BYTES < address + bytes && (at + GRANULE_BYTES) / BLOCK_BYTES == at / BLOCK_BYTES) continue;
    visit(at / BLOCK_BYTES, granules);
    granules = 0;
  }
}

// ---- ordinary instructions: some bytes of one granule ----

inline void read_granule(uint32_t address, const Access& access) {
  if (!launch.checked()) return;
  Cta& c = cta();
  Block& block = c.blocks[address / BLOCK_BYTES];
  Granule& granule = c.granule[address / GRANULE_BYTES];
  const uint64_t bit = granule_bit(address);
  for (const BlockAccess& writer : block.writers) {
    if (writer.granules & bit) check_read(access, writer.access, address);
  }
  if (block.single & bit) {
    for (int i = 0; i < granule.writers.size(); ++i) {
      const Access& writer = granule.writers[i];
      if ((writer.bytes & access.bytes) != 0) check_read(access, writer, address);
    }
  }
  block.single |= bit;
  granule.readers.add(access);
}

// Takes what asynchronous units did to a granule out of its block's lists, less `bytes`.
inline void set_apart(const BlockAccessList& from, uint64_t bit, uint16_t bytes, AccessList& to) {
  for (const BlockAccess& old : from) {
    if ((old.granules & bit) == 0) continue;
    Access rest = old.access;
    rest.bytes = static_cast<uint16_t>(rest.bytes & ~bytes);
    if (rest.bytes != 0) to.add(rest);
  }
}

inline void write_granule(uint32_t address, const Access& access) {
  if (!launch.checked()) return;
  Cta& c = cta();
  Block& block = c.blocks[address / BLOCK_BYTES];
  Granule& granule = c.granule[address / GRANULE_BYTES];
  const uint64_t bit = granule_bit(address);
  for (const BlockAccess& writer : block.writers) {
    if (writer.granules & bit) check_overwrite(access, writer.access, address, true);
  }
  for (const BlockAccess& reader : block.readers) {
    if (reader.granules & bit) check_overwrite(access, reader.access, address, false);
  }
  if (block.single & bit) {
    for (int i = 0; i < granule.writers.size(); ++i) {
      const Access& writer = granule.writers[i];
      if ((writer.bytes & access.bytes) != 0) check_overwrite(access, writer, address, true);
    }
    for (int i = 0; i < granule.readers.size(); ++i) {
      const Access& reader = granule.readers[i];
      if ((reader.bytes & access.bytes) != 0) check_overwrite(access, reader, address, false);
    }
  }
  if (block.barriers & bit) report_barrier_overwritten(access, address);
  ++c.writes;
  granule.writers.cover(access.bytes);
  granule.readers.cover(access.bytes);
  set_apart(block.writers, bit, access.bytes, granule.writers);
  set_apart(block.readers, bit, access.bytes, granule.readers);
  block.writers.cover(bit);
  block.readers.cover(bit);
  block.single |= bit;
  granule.writers.add(access);
}

// Forgets everything, for the next CTA.
inline void forget_accesses(Cta& c) {
  const size_t blocks = static_cast<size_t>(c.ctas - 1) * (WINDOW_BYTES / BLOCK_BYTES) + BLOCKS;
  if (c.blocks.size() < blocks) {
    c.blocks.resize(blocks);
    c.granule.resize(blocks * BLOCK_GRANULES);
  }
  for (size_t number = 0; number < c.blocks.size(); ++number) {
    Block& block = c.blocks[number];
    block.writers.clear();
    block.readers.clear();
    for_each_bit(block.single, [&](uint32_t bit) {
      c.granule[number * BLOCK_GRANULES + bit].writers.clear();
      c.granule[number * BLOCK_GRANULES + bit].readers.clear();
    });
    block.single = block.barriers = 0;
  }
}

// Mask of the bytes of the granule at `granule` that [address, address + bytes) covers.
inline uint16_t byte_mask(uint32_t granule, uint32_t address, uint32_t bytes) {
  const uint32_t first = address > granule ? address - granule : 0;
  const uint32_t last = std::min(address + bytes - granule, GRANULE_BYTES);
  return static_cast<uint16_t>(((1u << last) - 1u) & ~((1u << first) - 1u));
}

template <typename Visit>
inline void for_each_granule(uint32_t address, uint32_t bytes, Visit visit) {
  for (uint32_t granule = address & ~(GRANULE_BYTES - 1); granule < address + bytes; granule += GRANULE_BYTES) {
    visit(granule, byte_mask(granule, address, bytes));
  }
}

// ---- ordinary loads and stores ----

ATTNBENCH_OUT_OF_LINE void store_shared(uint32_t address, const void* value, uint32_t bytes, Primitive primitive,
                                        Where where) {
  const SiteId site = visit(primitive, where);
  if (address % bytes != 0)
    hazard(Hazard::out_of_bounds, site, format("address 0x%x is not a multiple of %u", address, bytes));
  if (!in_bounds(site, address, bytes)) return;
  Thread& thread = self();
  for_each_granule(address, bytes, [&](uint32_t granule, uint16_t mask) {
    write_granule(granule, {thread.time(), thread.agent(), site, mask, true});
  });
  std::memcpy(cta().shared + address, value, bytes);
}

ATTNBENCH_OUT_OF_LINE void load_shared(uint32_t address, void* value, uint32_t bytes, Where where) {
  const SiteId site = visit(Primitive::load_shared, where);
  if (address % bytes != 0)
    hazard(Hazard::out_of_bounds, site, format("address 0x%x is not a multiple of %u", address, bytes));
  if (!in_bounds(site, address, bytes)) return;
  Thread& thread = self();
  for_each_granule(address, bytes, [&](uint32_t granule, uint16_t mask) {
    read_granule(granule, {thread.time(), thread.agent(), site, mask, true});
  });
  std::memcpy(value, cta().shared + address, bytes);
}

inline void count_read(size_t bytes) { engine().counted.counts.global_read_bytes += bytes; }
inline void count_write(size_t bytes) { engine().counted.counts.global_write_bytes += bytes; }

// Comes before an atomic operation whose result depends on the order of CTAs.
inline void wait_for_turn() { launch.time.wait(engine().slot, engine().step); }

// Global addresses must be multiples of the access size.
inline void check_aligned(const void* address, size_t bytes, Where where) {
  if (__builtin_expect(reinterpret_cast<uintptr_t>(address) % bytes == 0, 1)) return;
  const SiteId site = visit(Primitive::store_global, where);
  hazard(Hazard::out_of_bounds, site, format("global address is not a multiple of %zu bytes", bytes));
}

// Makes what this thread knows to be written by ordinary stores visible to the async proxy.
ATTNBENCH_OUT_OF_LINE void fence_proxy_async(Where where) {
  const SiteId site = visit(Primitive::fence_proxy_async_shared, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (launch.checked()) self().knowledge.fence();
}

}  // namespace attnbench::emulation
