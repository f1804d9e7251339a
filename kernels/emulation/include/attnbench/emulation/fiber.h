// Fibers: one stack and one saved stack pointer for each emulated CUDA thread.
//
// The switch saves the callee-saved registers of the platform's calling convention and nothing else: a signal mask, as
// swapcontext keeps it, costs a system call a switch. swapcontext serves on other platforms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>
#include <unistd.h>

// Defined by hand to test this way where the others exist.
#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(ATTNBENCH_FIBER_UCONTEXT)
#define ATTNBENCH_FIBER_UCONTEXT 1
#endif
#if defined(ATTNBENCH_FIBER_UCONTEXT)
#include <ucontext.h>
#endif

namespace attnbench::emulation {

// Room for the register arrays of a thread (a few KiB) and the emulator's own frames.
constexpr size_t FIBER_STACK_BYTES = 128 * 1024;

#if defined(__x86_64__)
// System V AMD64 ABI: rbx, rbp, r12-r15 belong to the caller.
extern "C" void attnbench_fiber_switch(void** save, void* resume);
asm(R"(
.text
.hidden attnbench_fiber_switch
.globl attnbench_fiber_switch
.type attnbench_fiber_switch, @function
attnbench_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size attnbench_fiber_switch, .-attnbench_fiber_switch
)");
#elif defined(__aarch64__)
// AAPCS64: x19-x30 and the low halves of v8-v15 belong to the caller.
extern "C" void attnbench_fiber_switch(void** save, void* resume);
asm(R"(
.text
.hidden attnbench_fiber_switch
.globl attnbench_fiber_switch
.type attnbench_fiber_switch, %function
attnbench_fiber_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size attnbench_fiber_switch, .-attnbench_fiber_switch
)");
#endif

// One suspended computation.
struct Fiber {
#if defined(ATTNBENCH_FIBER_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
};

inline void fiber_switch(Fiber& from, Fiber& to) {
#if defined(ATTNBENCH_FIBER_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  attnbench_fiber_switch(&from.stack_pointer, to.stack_pointer);
#endif
}

// Prepares `fiber` to run `entry`, which must never return, on the stack that ends at `top`.
inline void fiber_start(Fiber& fiber, unsigned char* top, void (*entry)()) {
#if defined(ATTNBENCH_FIBER_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = top - FIBER_STACK_BYTES / 2;
  fiber.context.uc_stack.ss_size = FIBER_STACK_BYTES / 2;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#elif defined(__x86_64__)
  // Six saved registers and the return address below an aligned word, so that the stack pointer is 8 modulo 16 at the
  // entry, as after a call.
  auto* slot = reinterpret_cast<uint64_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{63}) - 8;
  for (int i = 0; i < 6; ++i) slot[i] = 0;
  slot[6] = reinterpret_cast<uint64_t>(entry);
  slot[7] = 0;
  fiber.stack_pointer = slot;
#else
  auto* slot = reinterpret_cast<uint64_t*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{63}) - 20;
  for (int i = 0; i < 20; ++i) slot[i] = 0;
  slot[11] = reinterpret_cast<uint64_t>(entry);  // x30, the return address
  fiber.stack_pointer = slot;
#endif
}

// Stacks with a guard page below each; memory is committed by the kernel as it is touched.
class FiberStacks {
 public:
  explicit FiberStacks(int count) : count_(count) {
    page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    bytes_ = (FIBER_STACK_BYTES + page_) * static_cast<size_t>(count);
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::fprintf(stderr, "attnbench emulation: no memory for %d thread stacks\n", count);
      std::abort();
    }
    memory_ = static_cast<unsigned char*>(memory);
    for (int i = 0; i < count; ++i)
      mprotect(memory_ + static_cast<size_t>(i) * (FIBER_STACK_BYTES + page_), page_, PROT_NONE);
  }
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;
  ~FiberStacks() { munmap(memory_, bytes_); }

  int count() const { return count_; }

  // NOTE: stacks that all start at the same offset of a page compete for the same cache sets; the stagger halves the
  // time of a run.
  unsigned char* top(int i) const {
    return memory_ + static_cast<size_t>(i + 1) * (FIBER_STACK_BYTES + page_) - static_cast<size_t>(i % 32) * 576;
  }

 private:
  int count_;
  size_t page_ = 0, bytes_ = 0;
  unsigned char* memory_ = nullptr;
};

}  // namespace attnbench::emulation
