// Shared memory accesses with race and proxy checks at 16-byte granularity (bytes within a granule told apart).
#pragma once

#include <attnbench/emulation/engine.h>

namespace attnbench::emulation {

// " for full_k[1]", " by warp 4", " of warpgroup 1": whose access it is.
inline std::string agent_text(Agent agent) {
  if (agent >= THREAD_AGENT) return " by warp " + std::to_string((agent - THREAD_AGENT) / 32);
  if (agent >= STORE_AGENT) {
    const int thread = cta().store_slots[static_cast<size_t>(agent - STORE_AGENT)];
    return " issued by warp " + std::to_string(thread / 32);
  }
  if (agent >= LOAD_AGENT) return " for " + barrier_text(cta().barrier[static_cast<size_t>(agent - LOAD_AGENT)]);
  return " of warpgroup " + std::to_string(agent - WGMMA_AGENT);
}

inline std::string access_text(const Access& access) {
  return engine.sites.text(access.site) + agent_text(access.agent);
}

// False, after a report, where [address, address + bytes) is not all inside the launch's shared memory.
inline bool in_bounds(SiteId site, uint32_t address, uint32_t bytes) {
  if (address >= SHARED_BASE && static_cast<uint64_t>(address) + bytes <= cta().shared_end) return true;
  fatal(Hazard::out_of_bounds, site,
        format("shared memory 0x%x..0x%x, the launch has 0x%x..0x%x", address, address + bytes, SHARED_BASE,
               cta().shared_end));
  return false;
}

inline bool ordered(const Access& earlier) { return self().knowledge.happened.time[earlier.agent] >= earlier.time; }

inline bool fenced(const Access& earlier) {
  return !earlier.generic || self().knowledge.fenced.time[earlier.agent] >= earlier.time;
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

// The running thread (or the unit that acts for it) reads `access.bytes` of the granule at `address`. Adds to `met` whose
// data it reads, where that is not the last one's there.
inline void read_granule(uint32_t address, const Access& access, std::vector<Access>* met = nullptr) {
  Granule& granule = cta().granule[address / GRANULE_BYTES];
  for (int i = 0; i < granule.writers.size(); ++i) {
    const Access& writer = granule.writers[i];
    if ((writer.bytes & access.bytes) == 0) continue;
    if (!ordered(writer)) {
      report_race(access, writer, address, "reads");
    } else if (!access.generic && !fenced(writer)) {
      report_proxy(access, writer, address, "reads");
    }
    if (met && (met->empty() || met->back().agent != writer.agent || met->back().time != writer.time ||
                met->back().generic != writer.generic)) {
      met->push_back(writer);
    }
  }
  granule.readers.add(access);
}

inline void write_granule(uint32_t address, const Access& access) {
  Cta& c = cta();
  Granule& granule = c.granule[address / GRANULE_BYTES];
  for (int i = 0; i < granule.writers.size(); ++i) {
    const Access& writer = granule.writers[i];
    if ((writer.bytes & access.bytes) == 0) continue;
    if (!ordered(writer)) {
      report_race(access, writer, address, "overwrites");
    } else if (!access.generic && !fenced(writer)) {
      report_proxy(access, writer, address, "overwrites");
    }
  }
  for (int i = 0; i < granule.readers.size(); ++i) {
    const Access& reader = granule.readers[i];
    if ((reader.bytes & access.bytes) != 0 && !ordered(reader)) report_race(access, reader, address, "overwrites");
  }
  if (c.barrier_at[address / 8] >= 0 || c.barrier_at[address / 8 + 1] >= 0) {
    hazard(Hazard::mbarrier, access.site, format("writes over the mbarrier at 0x%x", address));
  }
  ++c.writes;
  granule.writers.cover(access.bytes);
  granule.readers.cover(access.bytes);
  granule.writers.add(access);
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
  const SiteId site = engine.sites.visit(primitive, where);
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
  const SiteId site = engine.sites.visit(Primitive::load_shared, where);
  if (address % bytes != 0)
    hazard(Hazard::out_of_bounds, site, format("address 0x%x is not a multiple of %u", address, bytes));
  if (!in_bounds(site, address, bytes)) return;
  Thread& thread = self();
  for_each_granule(address, bytes, [&](uint32_t granule, uint16_t mask) {
    read_granule(granule, {thread.time(), thread.agent(), site, mask, true});
  });
  std::memcpy(value, cta().shared + address, bytes);
}

// Global addresses must be multiples of the access size.
inline void check_aligned(const void* address, size_t bytes, Where where) {
  if (__builtin_expect(reinterpret_cast<uintptr_t>(address) % bytes == 0, 1)) return;
  const SiteId site = engine.sites.visit(Primitive::store_global, where);
  hazard(Hazard::out_of_bounds, site, format("global address is not a multiple of %zu bytes", bytes));
}

// Makes what this thread knows to be written by ordinary stores visible to the async proxy.
ATTNBENCH_OUT_OF_LINE void fence_proxy_async(Where where) {
  const SiteId site = engine.sites.visit(Primitive::fence_proxy_async_shared, where);
  if (engine.mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  Thread& thread = self();
  thread.knowledge.fence(cta().agents);
  ++thread.time();  // a later store by this thread is not covered
}

}  // namespace attnbench::emulation
