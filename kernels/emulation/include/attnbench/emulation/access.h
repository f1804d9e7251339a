// Which accesses to shared memory a later one may conflict with: for each 16 bytes, and for each 1 KiB together what
// the asynchronous units touch there, since TMA and wgmma touch whole rows of it at a time.
#pragma once

#include <attnbench/emulation/clock.h>

namespace attnbench::emulation {

constexpr uint32_t GRANULE_BYTES = 16;  // what swizzles permute, and the least a descriptor can address
constexpr uint32_t BLOCK_BYTES = 1024;  // a swizzle atom of 8 rows
constexpr int BLOCK_GRANULES = BLOCK_BYTES / GRANULE_BYTES;
static_assert(BLOCK_GRANULES == 64, "a block's granules are the bits of a 64-bit mask");
constexpr uint16_t ALL_BYTES = 0xffff;

// Dynamic shared memory a CTA may have on compute capability 9.0 (CUDA C++ Programming Guide, "Compute Capabilities"),
// after the 1 KiB that the system keeps for itself at address 0.
constexpr uint32_t SHARED_BASE = 1024;
constexpr uint32_t SHARED_LIMIT_BYTES = 232448;
constexpr uint32_t BLOCKS = (SHARED_BASE + SHARED_LIMIT_BYTES) / BLOCK_BYTES;

// Each CTA of a cluster has shared memory at addresses of its own: those of rank r start at r windows.
constexpr int CLUSTER_CTAS = 2;  // at most
constexpr uint32_t WINDOW_BYTES = 1u << 18;
constexpr uint32_t CLUSTER_BLOCKS = (CLUSTER_CTAS - 1) * (WINDOW_BYTES / BLOCK_BYTES) + BLOCKS;

// One access to (part of) 16 bytes of shared memory.
struct Access {
  uint32_t time;  // of `agent`
  Agent agent;
  uint16_t site;
  uint16_t bytes;  // mask of the bytes touched
  bool generic;    // by an ordinary instruction, not by the async proxy

  bool same(const Access& other) const {
    return time == other.time && agent == other.agent && site == other.site && generic == other.generic;
  }
};

// Accesses to one granule; nearly always fewer than four.
class AccessList {
 public:
  void clear() {
    count_ = 0;
    if (more_) more_->clear();
  }
  int size() const { return count_; }
  Access& operator[](int i) { return i < INLINE ? inline_[i] : (*more_)[static_cast<size_t>(i - INLINE)]; }

  void add(const Access& access) {
    for (int i = 0; i < size(); ++i) {
      Access& old = (*this)[i];
      if (old.agent == access.agent && old.generic == access.generic && (old.bytes & ~access.bytes) == 0) {
        old = access;
        return;
      }
    }
    if (count_ < INLINE) {
      inline_[count_] = access;
    } else {
      if (!more_) more_ = std::make_unique<std::vector<Access>>();
      more_->push_back(access);
    }
    ++count_;
  }

  // Forgets what `bytes` covers.
  void cover(uint16_t bytes) {
    if (bytes == ALL_BYTES) {
      clear();
      return;
    }
    AccessList kept;
    for (int i = 0; i < size(); ++i) {
      Access access = (*this)[i];
      access.bytes = static_cast<uint16_t>(access.bytes & ~bytes);
      if (access.bytes) kept.add(access);
    }
    *this = std::move(kept);
  }

 private:
  // NOTE: small, and the count first: most of an emulated run's time once was the way to these lists in memory.
  static constexpr int INLINE = 3;
  int count_ = 0;
  Access inline_[INLINE] = {};
  std::unique_ptr<std::vector<Access>> more_;
};

struct Granule {
  AccessList writers, readers;
};

// An asynchronous unit's access to whole granules of a block.
struct BlockAccess {
  Access access;
  uint64_t granules;
};

class BlockAccessList {
 public:
  void clear() { list_.clear(); }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }

  // Takes the place of the agent's earlier accesses to the same granules.
  void add(const Access& access, uint64_t granules) {
    bool merged = false;
    for (BlockAccess& old : list_) {
      if (old.access.agent != access.agent) continue;
      if (old.access.same(access)) {
        old.granules |= granules;
        merged = true;
      } else {
        old.granules &= ~granules;
      }
    }
    if (!merged) list_.push_back({access, granules});
    drop_empty();
  }

  void cover(uint64_t granules) {
    for (BlockAccess& old : list_) old.granules &= ~granules;
    drop_empty();
  }

 private:
  void drop_empty() {
    list_.erase(std::remove_if(list_.begin(), list_.end(), [](const BlockAccess& a) { return a.granules == 0; }),
                list_.end());
  }
  std::vector<BlockAccess> list_;
};

struct Block {
  BlockAccessList writers, readers;  // by asynchronous units, whole granules
  uint64_t single = 0;               // granules with accesses of their own (Granule)
  uint64_t barriers = 0;             // granules that hold an mbarrier
};

inline uint64_t granule_bit(uint32_t address) { return uint64_t{1} << (address / GRANULE_BYTES % BLOCK_GRANULES); }

// Granules of shared memory, by block.
class GranuleSet {
 public:
  void add(uint32_t address) {
    const uint32_t block = address / BLOCK_BYTES;
    if (granules_[block] == 0) blocks_[count_++] = block;
    granules_[block] |= granule_bit(address);
  }
  void clear() {
    for (int i = 0; i < count_; ++i) granules_[blocks_[i]] = 0;
    count_ = 0;
  }
  template <typename Visit>
  void each(Visit visit) const {
    for (int i = 0; i < count_; ++i) visit(blocks_[i], granules_[blocks_[i]]);
  }

 private:
  uint64_t granules_[CLUSTER_BLOCKS] = {};
  uint32_t blocks_[CLUSTER_BLOCKS];
  int count_ = 0;
};

}  // namespace attnbench::emulation
