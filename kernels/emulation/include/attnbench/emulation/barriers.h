// Named barriers (PTX ISA, "bar"), warp collectives, and setmaxnreg.
#pragma once

#include <attnbench/emulation/mbarrier.h>

namespace attnbench::emulation {

// ---- named barriers ----

inline void check_whole_warps(NamedBarrier& barrier, int id, SiteId site) {
  for (int warp = 0; warp < cta().warps; ++warp) {
    if (barrier.arrivals_of_warp[warp] % 32 != 0) {
      hazard(Hazard::named_barrier, site,
             format("barrier %d completes with %d lanes of warp %d", id, barrier.arrivals_of_warp[warp],
                    warp % (cta().cta_threads / 32)));
    }
    barrier.arrivals_of_warp[warp] = 0;
  }
}

// Counts one thread in. Returns the generation it belongs to.
inline uint32_t enter_named_barrier(int id, int threads, SiteId site) {
  NamedBarrier& barrier = own_member().named[id];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.first_site = site;
  } else if (barrier.expected != threads) {
    hazard(Hazard::named_barrier, site,
           format("barrier %d for %d threads, but %d at ", id, threads, barrier.expected) +
               launch.sites.text(barrier.first_site));
  }
  release(barrier.entered);
  const uint32_t generation = barrier.generation;
  ++barrier.arrivals_of_warp[self().warp()];
  if (++barrier.arrived == barrier.expected) {
    check_whole_warps(barrier, id, site);
    barrier.arrived = 0;
    ++barrier.generation;
    barrier.left = barrier.entered.snapshot(cta().snapshots);
    wake(barrier.waiters);
  }
  return generation;
}

inline bool valid_named_barrier(int id, int threads, SiteId site) {
  if (id >= 0 && id < NAMED_BARRIERS && threads > 0 && threads % 32 == 0 && threads <= cta().cta_threads) return true;
  fatal(Hazard::named_barrier, site,
        format("barrier %d (0 to 15) for %d threads (a multiple of 32, at most %d)", id, threads, cta().cta_threads));
  return false;
}

inline void sync_on(int id, int threads, SiteId site) {
  before_blocking();
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  if (mutated(site, ATTNBENCH_MUTATION_LESS)) threads -= 32;
  if (mutated(site, ATTNBENCH_MUTATION_MORE)) threads += 32;
  if (!valid_named_barrier(id, threads, site)) return;
  const uint32_t generation = enter_named_barrier(id, threads, site);
  NamedBarrier& barrier = own_member().named[id];
  while (barrier.generation == generation) {
    park(barrier.waiters, {Waiting::named_barrier, site, self().rank * NAMED_BARRIERS + id, threads});
  }
  acquire(barrier.left);
  count_wait(WaitKey{-1 - id, barrier.generation});
  after_blocking();
}

ATTNBENCH_OUT_OF_LINE void barrier_sync(int id, int threads, Where where) {
  sync_on(id, threads, visit(Primitive::barrier_sync, where));
}

ATTNBENCH_OUT_OF_LINE void cta_sync(Where where) {
  sync_on(0, cta().cta_threads, visit(Primitive::cta_sync, where));
}

ATTNBENCH_OUT_OF_LINE void barrier_arrive(int id, int threads, Where where) {
  const SiteId site = visit(Primitive::barrier_arrive, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP) || arrived_early(site, id, threads)) return;
  if (mutated(site, ATTNBENCH_MUTATION_LESS)) threads -= 32;
  if (mutated(site, ATTNBENCH_MUTATION_MORE)) threads += 32;
  if (!valid_named_barrier(id, threads, site)) return;
  enter_named_barrier(id, threads, site);
  if (mutated(site, ATTNBENCH_MUTATION_TWICE)) enter_named_barrier(id, threads, site);
}

// ---- warp collectives ----

// Waits for all 32 lanes; afterwards `values` of the returned rendezvous holds what each lane brought. It stays valid
// until the lane enters the collective after the next.
inline const Rendezvous& meet(uint32_t value, SiteId site, bool orders_memory) {
  Cta& c = cta();
  Thread& thread = self();
  Rendezvous& meeting = c.warp[static_cast<size_t>(thread.warp())].rendezvous[thread.rendezvous ^= 1];
  const Primitive primitive = launch.sites[site].primitive;
  if (meeting.arrived == 0) {
    meeting.primitive = primitive;
    meeting.site = site;
  } else if (meeting.primitive != primitive || meeting.site != site) {
    hazard(Hazard::divergence, site, "other lanes of the warp are at " + launch.sites.text(meeting.site), meeting.site);
  }
  meeting.values[thread.lane()] = value;
  if (++meeting.arrived < 32) {
    park(meeting.waiters, {Waiting::warp, site, meeting.arrived, 0});
    return meeting;
  }
  meeting.arrived = 0;
  if (orders_memory && launch.checked()) {
    Gathering& joint = engine().joint;
    joint.clear(c.agents);
    Thread* first = &c.thread[static_cast<size_t>(thread.warp() * 32)];
    for (int lane = 0; lane < 32; ++lane) joint.add(first[lane].knowledge, c.agents);
    const SnapshotRef known = joint.snapshot(c.snapshots);
    for (int lane = 0; lane < 32; ++lane) {
      first[lane].knowledge.shared = known;
      ++first[lane].time();
    }
  }
  wake(meeting.waiters);
  return meeting;
}

ATTNBENCH_OUT_OF_LINE void warp_sync(Where where) {
  const SiteId site = visit(Primitive::warp_sync, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) return;
  meet(0, site, true);
}

// NOTE: shuffles and votes synchronize the lanes but order no memory (PTX ISA, "shfl.sync"; bar.warp.sync does).
ATTNBENCH_OUT_OF_LINE uint32_t shuffle(uint32_t value, int source_lane, Where where) {
  const SiteId site = visit(Primitive::shuffle, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP)) source_lane = self().lane();
  return meet(value, site, false).values[source_lane & 31];
}

ATTNBENCH_OUT_OF_LINE bool any_sync(bool predicate, Where where) {
  const Rendezvous& meeting = meet(predicate, visit(Primitive::any_sync, where), false);
  for (uint32_t value : meeting.values) {
    if (value) return true;
  }
  return false;
}

// The same lane for a whole launch, and any lane: the choice is the hardware's.
ATTNBENCH_OUT_OF_LINE bool elect_one(Where where) {
  visit(Primitive::elect_one, where);
  return self().lane() == cta().elected_lane;
}

// ---- setmaxnreg ----

// Registers a thread starts with: the file shared by all threads, in steps of 8, at most 255 usable.
inline int registers_at_entry(int threads) { return std::min(REGISTER_FILE / threads / 8 * 8, 256); }

// Meets the warp's lanes (.sync.aligned); true in the one that changes the warp's count for all.
inline bool reallocates(SiteId site) {
  meet(0, site, false);
  return self().lane() == 0;
}

inline Warp& own_warp() { return cta().warp[static_cast<size_t>(self().warp())]; }

ATTNBENCH_OUT_OF_LINE void setmaxnreg_dec(int registers, Where where) {
  const SiteId site = visit(Primitive::setmaxnreg_dec, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP) || !reallocates(site)) return;
  Warp& warp = own_warp();
  if (registers > warp.registers) {
    hazard(Hazard::registers, site, format("lowers %d registers to %d", warp.registers, registers));
  }
  own_member().register_pool += (warp.registers - registers) * 32;
  warp.registers = registers;
  wake(own_member().register_waiters);
}

ATTNBENCH_OUT_OF_LINE void setmaxnreg_inc(int registers, Where where) {
  const SiteId site = visit(Primitive::setmaxnreg_inc, where);
  if (mutated(site, ATTNBENCH_MUTATION_DROP) || !reallocates(site)) return;
  Warp& warp = own_warp();
  if (registers < warp.registers) {
    hazard(Hazard::registers, site, format("raises %d registers to %d", warp.registers, registers));
  }
  const int needed = (registers - warp.registers) * 32;
  Member& member = own_member();
  while (member.register_pool < needed) {
    park(member.register_waiters, {Waiting::registers, site, needed, member.register_pool});
  }
  member.register_pool -= needed;
  warp.registers = registers;
}

}  // namespace attnbench::emulation
