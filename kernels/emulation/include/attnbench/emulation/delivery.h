// Execution of asynchronous work: now, when it is due, or because nothing else can go on.
#pragma once

#include <attnbench/emulation/bulk_copy.h>
#include <attnbench/emulation/wgmma.h>

namespace attnbench::emulation {

inline void execute(const Event& event) {
  Cta& c = cta();
  switch (event.what) {
    case Event::load: deliver_load(c.loads[static_cast<size_t>(event.index)]); break;
    case Event::wgmma_group: deliver_group(c.warpgroup[static_cast<size_t>(event.index)]); break;
    case Event::store_read: deliver_store_read(c.thread[static_cast<size_t>(event.index)]); break;
    case Event::store_write: deliver_store_write(c.thread[static_cast<size_t>(event.index)]); break;
  }
}

inline void execute_event(size_t index) {
  Cta& c = cta();
  const Event event = c.events[index];
  c.events[index] = c.events.back();
  c.events.pop_back();
  execute(event);
}

// Delivers what is due; with `idle` (no thread can run) one more, whichever the schedule likes.
inline bool deliver(bool idle) {
  Cta& c = cta();
  bool any = false;
  if (launch.config.delivery != ATTNBENCH_DELIVERY_LAZY) {
    for (size_t i = 0; i < c.events.size();) {
      if (c.events[i].due > engine().step) {
        ++i;
        continue;
      }
      execute_event(i);
      any = true;
    }
  }
  if (!any && idle && !c.events.empty()) {
    execute_event(engine().random.below(static_cast<uint32_t>(c.events.size())));
    any = true;
  }
  return any;
}

}  // namespace attnbench::emulation
