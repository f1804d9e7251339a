// Call sites of primitives, and the hazards found at them.
#pragma once

#include <attnbench/emulation.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
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
  mbarrier_arrive_cluster,
  mbarrier_arrive_expect_tx,
  mbarrier_try_wait_parity,
  tma_load_4d,
  tma_load_multicast_4d,
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
  cluster_arrive,
  cluster_wait,
  map_to_cta,
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

constexpr size_t PRIMITIVES = static_cast<size_t>(Primitive::thread_exit) + 1;

inline const char* name_of(Primitive primitive) {
  static const char* const names[] = {"mbarrier_init",
                                      "fence_mbarrier_init",
                                      "mbarrier_arrive",
                                      "mbarrier_arrive_cluster",
                                      "mbarrier_arrive_expect_tx",
                                      "mbarrier_try_wait_parity",
                                      "tma_load_4d",
                                      "tma_load_multicast_4d",
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
                                      "cluster_arrive",
                                      "cluster_wait",
                                      "map_to_cta",
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

// All call sites seen, found again by (primitive, file, line) in an open-addressed table. Several threads may look.
class Sites {
 public:
  struct Site {
    Primitive primitive;
    Where where;
    uint64_t calls;
  };
  static constexpr size_t MOST = 2048;  // a kernel has some hundred sites

  Sites() : slots_(SLOTS), sites_(MOST) {
    for (auto& slot : slots_) slot.store(EMPTY, std::memory_order_relaxed);
  }

  SiteId find(Primitive primitive, Where where) {
    const auto key = reinterpret_cast<uintptr_t>(where.file) * 31 + static_cast<uintptr_t>(where.line) * 64 +
                     static_cast<uintptr_t>(primitive);
    for (size_t slot = (key * 0x9e3779b97f4a7c15ull) >> 52;; slot = (slot + 1) % SLOTS) {
      const SiteId known = slots_[slot].load(std::memory_order_acquire);
      if (known == EMPTY) return add(primitive, where, slot);
      const Site& site = sites_[known];
      if (site.primitive == primitive && site.where.line == where.line && site.where.file == where.file) return known;
    }
  }

  void count(SiteId id, uint64_t calls) { sites_[id].calls += calls; }
  const Site& operator[](SiteId id) const { return sites_[id]; }
  size_t size() const { return size_; }

  // "wgmma_ss (fwd_ws.cu:120)"
  std::string text(SiteId id) const { return std::string(name_of(sites_[id].primitive)) + " (" + place(id) + ")"; }

  // "fwd_ws.cu:120"
  std::string place(SiteId id) const {
    const char* slash = std::strrchr(sites_[id].where.file, '/');
    return std::string(slash ? slash + 1 : sites_[id].where.file) + ":" + std::to_string(sites_[id].where.line);
  }

 private:
  SiteId add(Primitive primitive, Where where, size_t slot) {
    {
      const std::lock_guard<std::mutex> lock(adding_);
      if (slots_[slot].load(std::memory_order_relaxed) == EMPTY) {
        if (size_ == MOST) {
          std::fprintf(stderr, "attnbench emulation: more than %zu call sites: raise Sites::MOST\n", MOST);
          std::abort();
        }
        sites_[size_] = {primitive, where, 0};
        slots_[slot].store(static_cast<SiteId>(size_), std::memory_order_release);
        return static_cast<SiteId>(size_++);
      }
    }
    return find(primitive, where);  // another thread has taken the slot
  }

  static constexpr size_t SLOTS = 4096;  // 2^12, hence the shift by 52
  static constexpr SiteId EMPTY = 0xffff;
  std::vector<std::atomic<SiteId>> slots_;
  std::vector<Site> sites_;
  size_t size_ = 0;
  std::mutex adding_;
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
  cluster,
};

inline const char* name_of(Hazard hazard) {
  static const char* const names[] = {"none",       "race",          "proxy_fence", "deadlock",          "runaway",
                                      "mbarrier",   "named_barrier", "accumulator", "operand",           "wgmma_fence",
                                      "commit",     "descriptor",    "bulk_group",  "in_flight_at_exit", "registers",
                                      "divergence", "out_of_bounds", "launch",      "cluster"};
  const int index = static_cast<int>(hazard);
  return index < static_cast<int>(sizeof names / sizeof names[0]) ? names[index] : "unknown hazard";
}

// The hazards of one launch. One hazard at one pair of sites is kept once.
class Report {
 public:
  void clear() { lines_.clear(); }
  bool empty() const { return lines_.empty(); }
  Hazard first() const { return lines_.empty() ? Hazard::none : lines_[0].hazard; }

  void add(uint64_t step, Hazard hazard, SiteId site, int other_site, std::string place, std::string text) {
    add({step, hazard, site, other_site, std::move(place), std::move(text)});
  }

  // Takes what another engine found; `keep_first`: of all only the earliest stays.
  void merge(const Report& other, bool keep_first) {
    for (const Line& line : other.lines_) add(line);
    std::stable_sort(lines_.begin(), lines_.end(), [](const Line& a, const Line& b) { return a.step < b.step; });
    if (keep_first && lines_.size() > 1) lines_.erase(lines_.begin() + 1, lines_.end());
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
    uint64_t step;
    Hazard hazard;
    SiteId site;
    int other_site;
    std::string place, text;
  };
  void add(Line line) {
    for (const Line& known : lines_) {
      if (known.hazard == line.hazard && known.site == line.site && known.other_site == line.other_site) return;
    }
    if (lines_.size() < LIMIT) lines_.push_back(std::move(line));
  }
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
