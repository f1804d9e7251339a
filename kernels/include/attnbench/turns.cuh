// Warpgroups taking turns, by named barriers: warpgroup i waits on barrier 1 + i, on which warpgroup i - 1 arrives when
// it passes the turn on. Each barrier thus counts two warpgroups, however many take part. Barrier 0 is
// __syncthreads().
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>
#include <attnbench/ptx/barrier.cuh>

namespace attnbench {

constexpr int FIRST_TURN_BARRIER = 1;
constexpr int TURN_THREADS = 2 * WARPGROUP_THREADS;

ATTNBENCH_DEVICE void take_turn(int warpgroup, Where where = ATTNBENCH_WHERE) {
  ptx::barrier_sync(FIRST_TURN_BARRIER + warpgroup, TURN_THREADS, where);
}

template <int Warpgroups>
ATTNBENCH_DEVICE void pass_turn(int warpgroup, Where where = ATTNBENCH_WHERE) {
  const int next = warpgroup + 1 == Warpgroups ? 0 : warpgroup + 1;
  ptx::barrier_arrive(FIRST_TURN_BARRIER + next, TURN_THREADS, where);
}

// Before the first turn, by every warpgroup: the last one gives the turn to warpgroup 0.
template <int Warpgroups>
ATTNBENCH_DEVICE void open_turns(int warpgroup, Where where = ATTNBENCH_WHERE) {
  if (warpgroup == Warpgroups - 1) pass_turn<Warpgroups>(warpgroup, where);
}

// After the last turn, by every warpgroup: warpgroup 0 takes the one that is left over, so that no barrier is left
// half full. All must have taken the same number of turns.
template <int Warpgroups>
ATTNBENCH_DEVICE void close_turns(int warpgroup, Where where = ATTNBENCH_WHERE) {
  if (warpgroup == 0) take_turn(warpgroup, where);
}

}  // namespace attnbench
