// Call sites of primitives, and the hazards found at them.
#pragma once

#include <attnbench/emulation.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

// NOTE: the primitives stay calls. Inlined into every variant of a kernel they make it take minutes to compile.
#define ATTNBENCH_OUT_OF_LINE inline __attribute__((noinline))

namespace attnbench {

// Call site of a primitive: the kernel's own line, since helpers forward the caller's.
// NOTE: the built-ins must be default arguments themselves; within braces GCC 12 gives the place of the declaration.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
#define ATTNBENCH_WHERE (::attnbench::Where::here())

}  // namespace attnbench

namespace attnbench::emulation {

enum class Primitive : uint8_t {
  mbarrier_init,
  fence_mbarrier_init,
  mbarrier_arrive,
  mbarrier_arrive_expect_tx,
  mbarrier_try_wait_parity,
  tma_load_4d,
  tma_store_4d,
  bulk_commit_group,
  bulk_wait_group_read,
  bulk_wait_group,
  wgmma_fence,
  wgmma_ss,
  wgmma_rs,
  wgmma_commit_group,
  wgmma_wait_group,
  barrier_sync,
  barrier_arrive,
  cta_sync,
  warp_sync,
  shuffle,
  any_sync,
  elect_one,
  fence_proxy_async_shared,
  stmatrix,
  store_shared,
  load_shared,
  setmaxnreg_inc,
  setmaxnreg_dec,
  store_global,
  use_of_value,
  thread_exit,
};

inline const char* name_of(Primitive primitive) {
  static const char* const names[] = {"mbarrier_init",
                                      "fence_mbarrier_init",
                                      "mbarrier_arrive",
                                      "mbarrier_arrive_expect_tx",
                                      "mbarrier_try_wait_parity",
                                      "tma_load_4d",
                                      "tma_store_4d",
                                      "bulk_commit_group",
                                      "bulk_wait_group_read",
                                      "bulk_wait_group",
                                      "wgmma_fence",
                                      "wgmma_ss",
                                      "wgmma_rs",
                                      "wgmma_commit_group",
                                      "wgmma_wait_group",
                                      "barrier_sync",
                                      "barrier_arrive",
                                      "cta_sync",
                                      "warp_sync",
                                      "shuffle",
                                      "any_sync",
                                      "elect_one",
                                      "fence_proxy_async_shared",
                                      "stmatrix",
                                      "store_shared",
                                      "load_shared",
                                      "setmaxnreg_inc",
                                      "setmaxnreg_dec",
                                      "store_global",
                                      "use_of_value",
                                      "thread_exit"};
  return names[static_cast<int>(primitive)];
}

using SiteId = uint16_t;

// All call sites seen, found again by (primitive, file, line) in an open-addressed table.
class Sites {
 public:
  struct Site {
    Primitive primitive;
    Where where;
    uint64_t calls;
  };

  Sites() : slots_(SLOTS, EMPTY) {}

  SiteId visit(Primitive primitive, Where where) {
    const auto key = reinterpret_cast<uintptr_t>(where.file) * 31 + static_cast<uintptr_t>(where.line) * 64 +
                     static_cast<uintptr_t>(primitive);
    for (size_t slot = (key * 0x9e3779b97f4a7c15ull) >> 52;; slot = (slot + 1) % SLOTS) {
      if (slots_[slot] == EMPTY) {
        slots_[slot] = static_cast<SiteId>(sites_.size());
        sites_.push_back({primitive, where, 1});
        return slots_[slot];
      }
      Site& site = sites_[slots_[slot]];
      if (site.primitive == primitive && site.where.line == where.line && site.where.file == where.file) {
        ++site.calls;
        return slots_[slot];
      }
    }
  }

  const Site& operator[](SiteId id) const { return sites_[id]; }
  size_t size() const { return sites_.size(); }

  // "wgmma_ss (fwd_ws.cu:120)"
  std::string text(SiteId id) const { return std::string(name_of(sites_[id].primitive)) + " (" + place(id) + ")"; }

  // "fwd_ws.cu:120"
  std::string place(SiteId id) const {
    const char* slash = std::strrchr(sites_[id].where.file, '/');
    return std::string(slash ? slash + 1 : sites_[id].where.file) + ":" + std::to_string(sites_[id].where.line);
  }

 private:
  static constexpr size_t SLOTS = 4096;  // 2^12, hence the shift by 52; a kernel has some hundred sites
  static constexpr SiteId EMPTY = 0xffff;
  std::vector<SiteId> slots_;
  std::vector<Site> sites_;
};

// Kinds of hazard; the numbers stand in a launch's status (ATTNBENCH_HOST_ERROR_BASE + kind).
enum class Hazard : uint8_t {
  none,
  race,
  proxy_fence,
  deadlock,
  runaway,
  mbarrier,
  named_barrier,
  accumulator,
  operand,
  wgmma_fence,
  commit,
  descriptor,
  bulk_group,
  in_flight_at_exit,
  registers,
  divergence,
  out_of_bounds,
  launch,
};

inline const char* name_of(Hazard hazard) {
  static const char* const names[] = {"none",       "race",          "proxy_fence", "deadlock",          "runaway",
                                      "mbarrier",   "named_barrier", "accumulator", "operand",           "wgmma_fence",
                                      "commit",     "descriptor",    "bulk_group",  "in_flight_at_exit", "registers",
                                      "divergence", "out_of_bounds", "launch"};
  const int index = static_cast<int>(hazard);
  return index < static_cast<int>(sizeof names / sizeof names[0]) ? names[index] : "unknown hazard";
}

// The hazards of one launch. One hazard at one pair of sites is kept once.
class Report {
 public:
  void clear() { lines_.clear(); }
  bool empty() const { return lines_.empty(); }
  Hazard first() const { return lines_.empty() ? Hazard::none : lines_[0].hazard; }

  void add(Hazard hazard, SiteId site, int other_site, std::string place, std::string text) {
    for (const Line& line : lines_) {
      if (line.hazard == hazard && line.site == site && line.other_site == other_site) return;
    }
    if (lines_.size() < LIMIT) lines_.push_back({hazard, site, other_site, std::move(place), std::move(text)});
  }

  std::string text() const {
    std::string all;
    for (const Line& line : lines_) {
      all += std::string(name_of(line.hazard)) + "\t" + line.place + "\t" + line.text + "\n";
    }
    return all;
  }

 private:
  struct Line {
    Hazard hazard;
    SiteId site;
    int other_site;
    std::string place, text;
  };
  static constexpr size_t LIMIT = 64;
  std::vector<Line> lines_;
};

__attribute__((format(printf, 1, 2))) inline std::string format(const char* pattern, ...) {
  char text[512];
  va_list values;
  va_start(values, pattern);
  std::vsnprintf(text, sizeof text, pattern, values);
  va_end(values);
  return text;
}

// splitmix64 (Steele, Lea, Flood, OOPSLA 2014): the same sequence on every platform.
class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }

 private:
  uint64_t state_;
};

}  // namespace attnbench::emulation
