// Says who waits for what when nothing can go on.
#pragma once

#include <attnbench/emulation/lifecycle.h>

namespace attnbench::emulation {

inline std::string waiting_text(const Waiting& waiting) {
  const std::string at = launch.sites.text(waiting.site);
  switch (waiting.what) {
    case Waiting::mbarrier: {
      const MBarrier& barrier = cta().barrier[static_cast<size_t>(waiting.object)];
      return at + " waits for " + barrier_text(barrier) +
             format(" parity %d: in phase %u, %u of %u arrivals missing, %lld bytes missing", waiting.detail,
                    barrier.phase, barrier.pending, barrier.count, static_cast<long long>(barrier.transaction_bytes));
    }
    case Waiting::named_barrier:
      return at + format(" waits at barrier %d: %d of %d threads", waiting.object % NAMED_BARRIERS,
                         cta().member[waiting.object / NAMED_BARRIERS].named[waiting.object % NAMED_BARRIERS].arrived,
                         waiting.detail);
    case Waiting::wgmma: return at + format(" waits for wgmma group %d", waiting.object);
    case Waiting::bulk_group: return at + format(" waits for bulk group %d", waiting.object);
    case Waiting::warp: return at + " waits for other lanes of its warp";
    case Waiting::registers:
      return at + format(" waits for %d registers, %d are free", waiting.object, waiting.detail);
    case Waiting::cluster:
      return at + format(" waits at the cluster's barrier: %d of %d threads", cta().cluster_barrier.arrived,
                         cta().alive);
    case Waiting::nothing: break;
  }
  return at;
}

inline std::string blocked_text(int warp) {
  return cta().ctas == 1 ? "Warp " + std::to_string(warp) : warp_text(warp);
}

inline void report_deadlock() {
  Cta& c = cta();
  std::string text = format("%d threads blocked.", c.alive);
  std::string last;
  SiteId site = 0;
  bool first = true;
  for (const Thread& thread : c.thread) {
    if (thread.finished) continue;
    const std::string why = waiting_text(thread.waiting);
    if (first) site = thread.waiting.site;
    first = false;
    if (why == last) continue;
    if (text.size() < 1200) text += " " + blocked_text(thread.warp()) + ": " + why + ".";
    last = why;
  }
  hazard(Hazard::deadlock, site, text);
  c.dead = true;
}

}  // namespace attnbench::emulation
