// The state of one emulated CTA: shared memory with its access history, threads, barriers, and work in flight. The CTAs
// of a cluster are one state: they run together, and what one knows of the other's memory goes by the same clocks.
#pragma once

#include <attnbench/emulation/access.h>
#include <attnbench/emulation/fiber.h>
#include <attnbench/emulation/numeric.h>
#include <attnbench/emulation/report.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace attnbench::emulation {

constexpr int REGISTER_FILE = 65536;  // 32-bit registers of a multiprocessor
constexpr int NAMED_BARRIERS = 16;
constexpr unsigned char POISON_BYTE = 0xff;        // a NaN in fp16, bf16 and e4m3
constexpr uint32_t POISON_REGISTER = 0x7fe5c0deu;  // a NaN that no arithmetic makes

// A decoded tensor map: what cuTensorMapEncodeTiled would have been given. Dimensions: head_dim, seqlen, head, batch.
struct TensorMap {
  unsigned char* base;
  Element element;
  int64_t sizes[4];
  int64_t stride_bytes[3];
  int box[4];
};

struct Thread;
using WaitList = std::vector<Thread*>;

// What a blocked thread waits for; read by the deadlock report.
struct Waiting {
  enum What : uint8_t { nothing, mbarrier, named_barrier, wgmma, bulk_group, warp, registers, cluster } what = nothing;
  SiteId site = 0;
  int object = 0;  // mbarrier index, named barrier (of all CTAs of a cluster), groups
  int detail = 0;  // parity, thread count
};

struct MBarrier {
  uint32_t address = 0;
  uint32_t count = 0, pending = 0;
  int64_t transaction_bytes = 0;  // announced and not yet arrived
  uint32_t phase = 0;
  const char* name = nullptr;
  int stage = 0;
  Agent initializer = 0;
  uint32_t init_time = 0;
  SiteId init_site = 0, last_wait_site = 0;
  uint32_t loads = 0;                 // issued so far
  std::vector<uint32_t> undelivered;  // numbers of the loads in flight
  Gathering arrived;
  SnapshotRef completed;  // what the last phase brought; of none before
  WaitList waiters;
};

struct NamedBarrier {
  int expected = 0, arrived = 0;
  uint32_t generation = 0;
  SiteId first_site = 0;
  uint8_t arrivals_of_warp[MAX_THREADS / 32] = {};
  Gathering entered;
  SnapshotRef left;
  WaitList waiters;
};

struct Load {
  TensorMap map;
  uint32_t destination;
  int barrier;
  uint32_t number;  // among the loads of its barrier
  int coordinates[4];
  SiteId site;
  bool counted;  // as traffic: of a multicast, one copy is
};

struct Store {
  TensorMap map;
  uint32_t source;
  int coordinates[4];
  SiteId site;
  std::vector<unsigned char> captured;  // the box as read from shared memory
};

// The bulk stores of one thread, in groups that complete in order.
struct StoreQueue {
  int slot = -1;
  std::vector<Store> open;                // not yet committed
  std::deque<std::vector<Store>> groups;  // committed and not written
  uint32_t committed = 0, read = 0, written = 0;
  WaitList waiters;
};

// One accumulator tile on its way through the tensor core: from the first wgmma that names a thread's registers until
// every thread has waited for the last one.
struct Accumulator {
  int columns = 0;
  int threads_out = 0;  // that have not yet taken their fragment back
  // 64 x columns, row by row. NOTE: room for any number of columns: a mutated kernel may name it again with more.
  std::vector<float> value = std::vector<float>(64 * 256);
};

// A CTA's accumulators; each is used again once no thread has a part in it.
class Accumulators {
 public:
  Accumulator* take(int columns, int threads) {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Accumulator>());
      free_.push_back(all_.back().get());
    }
    Accumulator* taken = free_.back();
    free_.pop_back();
    taken->columns = columns;
    taken->threads_out = threads;
    return taken;
  }
  void returned(Accumulator* accumulator) {
    if (--accumulator->threads_out == 0) free_.push_back(accumulator);
  }
  void take_all_back() {
    free_.clear();
    for (auto& accumulator : all_) free_.push_back(accumulator.get());
  }

 private:
  std::vector<std::unique_ptr<Accumulator>> all_;
  std::vector<Accumulator*> free_;
};

// What of a wgmma is known where it is compiled.
// NOTE: by reference, and `a` either a descriptor or the address of a fragment, so that a call passes in registers: as
// one structure on the stack, written word by word and copied by vectors, it cost more than what the call does.
struct WgmmaShape {
  Element element;
  int columns;
  bool transpose_a, transpose_b, from_registers, accumulate;
};

// What the first warp's reads of a wgmma operand met, so that the next warp need not go through all of it again.
struct OperandReads {
  uint64_t descriptor = 0, writes = 0;  // writes: Cta::writes then; 0 where nothing was read yet
  uint32_t time = 0;
  std::vector<Access> writers;  // whose data it is, neighbours told once
};

struct WgmmaOperation {
  const WgmmaShape* shape;
  uint64_t descriptor_a, descriptor_b;
  SiteId site;
  Accumulator* accumulator;
  int issued;
  bool executed;
  const uint32_t* fragment_a[128];  // where each thread keeps its A fragment
  uint32_t issued_fragment_a[128][4];
  OperandReads reads_a, reads_b;
};

// The wgmma of a warpgroup that have not been executed, by number. Their places are used again: they are large.
class OperationQueue {
 public:
  uint32_t first() const { return first_; }
  uint32_t end() const { return end_; }
  WgmmaOperation& operator[](uint32_t number) { return *ring_[number & mask_]; }

  // The next one, with what the one in its place before had.
  WgmmaOperation& append() {
    if (end_ - first_ == ring_.size()) grow();
    return (*this)[end_++];
  }
  void drop_first() { ++first_; }
  void clear() { first_ = end_ = 0; }

 private:
  void grow() {
    std::vector<std::unique_ptr<WgmmaOperation>> larger(std::max<size_t>(32, 2 * ring_.size()));
    for (uint32_t number = first_; number != end_; ++number) {
      larger[number % larger.size()] = std::move(ring_[number % ring_.size()]);
    }
    for (auto& place : larger) {
      if (!place) place = std::make_unique<WgmmaOperation>();
    }
    ring_ = std::move(larger);
    mask_ = static_cast<uint32_t>(ring_.size()) - 1;
  }
  std::vector<std::unique_ptr<WgmmaOperation>> ring_ = {};  // a power of two of them
  uint32_t mask_ = 0, first_ = 0, end_ = 0;
};

// The tensor work of one warpgroup, in program order.
struct Warpgroup {
  OperationQueue operations;
  std::vector<uint32_t> group_ends;  // operation number after each commit group
  std::vector<int> group_commits;    // threads that have committed it
  uint32_t groups_done = 0;
  WaitList waiters;

  void begin() {
    operations.clear();
    group_ends.clear();
    group_commits.clear();
    groups_done = 0;
    waiters.clear();
  }
};

// What a thread remembers of an accumulator (or A fragment) it has used: enough to tell whether it touched the
// registers after its last wgmma_fence.
struct RegisterUse {
  const void* registers;
  int words;
  bool accumulator;
  uint32_t fences_at_return;       // fences executed when the registers came back from the tensor core
  std::vector<uint32_t> at_fence;  // contents at the last fence
};

struct InFlight {
  float* registers;
  Accumulator* accumulator;
  uint32_t last_operation;
};

// The last access of one agent of another CTA to a CTA's shared memory.
struct RemoteAccess {
  Agent agent;
  uint32_t time;
  SiteId site;
};

// What each CTA of a cluster has to itself.
struct Member {
  int alive = 0;  // threads
  int register_pool = 0;
  WaitList register_waiters;
  NamedBarrier named[NAMED_BARRIERS];
  std::vector<RemoteAccess> accesses;
};

// The barrier of all threads of a cluster.
struct ClusterBarrier {
  int arrived = 0;  // threads that have not left
  uint32_t generation = 0;
  Gathering entered;
  SnapshotRef left;
  WaitList waiters;
};

struct Thread {
  Fiber fiber;
  int index = 0;  // among those of the cluster
  Warpgroup* group = nullptr;
  int rank = 0;                     // of its CTA
  uint32_t window = 0;              // where the addresses of its CTA's shared memory start
  bool in_cluster_barrier = false;  // has arrived and not yet waited, at generation
  uint32_t cluster_generation = 0;
  bool finished = false;
  Waiting waiting;
  Knowledge knowledge;
  int rendezvous = 0;       // parity of the warp's next collective
  uint32_t operations = 0;  // wgmma issued
  uint32_t groups = 0;      // wgmma groups committed
  uint32_t operations_committed = 0;
  uint32_t fences = 0;  // wgmma_fence executed
  std::vector<InFlight> in_flight;
  std::vector<RegisterUse> uses;
  std::unique_ptr<StoreQueue> stores;
  uint64_t descriptor_a = 0, descriptor_b = 0;  // of the last wgmma, for mutations
  uint32_t blocking_calls = 0, early_done = 0;
  int lane() const { return index % 32; }
  int warp() const { return index / 32; }
  int warpgroup() const { return index / 128; }
  Agent agent() const { return knowledge.agent; }
  uint32_t& time() { return knowledge.time; }
};

// A warp collective (shuffle, vote, sync) being entered by its 32 lanes.
struct Rendezvous {
  int arrived = 0;
  Primitive primitive = Primitive::warp_sync;
  SiteId site = 0;
  uint32_t values[32];
  WaitList waiters;
};

// A wait that has ended: for a phase of an mbarrier, or a generation of a named barrier (-1 - its number).
struct WaitKey {
  int object = 0;
  uint32_t phase = 0;
  bool operator==(const WaitKey& other) const { return object == other.object && phase == other.phase; }
};

struct Warp {
  static constexpr int WAITS = 8;
  WaitKey waits[WAITS];  // the last that lanes of it went through
  int next_wait = 0;
  bool waited = false;
  uint32_t ready = 0;  // lanes that can run
  Rendezvous rendezvous[2];
  int registers = 0;  // per thread
};

// Asynchronous work that may execute from step `due` on.
struct Event {
  enum What : uint8_t { load, wgmma_group, store_read, store_write } what;
  int index;  // load number, warpgroup, thread
  uint64_t due;
};

struct Cta {
  SnapshotPool snapshots;
  Accumulators accumulators;
  int block = 0, threads = 0, warps = 0, agents = 0;  // block: number of the cluster
  int ctas = 1, cta_threads = 0;                      // CTAs of the cluster, threads of each
  uint32_t shared_end = 0;  // first address past the launch's shared memory, within a window
  int alive = 0;
  bool dead = false;  // stopped by a hazard that leaves nothing to continue with
  int elected_lane = 0;

  Member member[CLUSTER_CTAS];
  ClusterBarrier cluster_barrier;
  std::vector<Thread> thread;
  std::vector<Warp> warp;
  std::vector<Warpgroup> warpgroup;
  std::vector<MBarrier> barrier;
  std::vector<int16_t> barrier_at;  // by address / 8; -1: none
  std::deque<Load> loads;
  std::vector<Event> events;
  std::vector<Block> blocks;
  std::vector<Granule> granule;
  uint64_t writes = 1;  // to shared memory so far
  unsigned char* shared = nullptr;  // indexed by shared address
  std::vector<int> store_slots;     // threads that issue bulk stores
  std::unique_ptr<FiberStacks> stacks;
  std::vector<unsigned char> arena;
};

}  // namespace attnbench::emulation
