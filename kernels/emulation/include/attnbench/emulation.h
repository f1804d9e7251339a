/* C interface that an emulated kernel library exports beside attnbench/abi.h: choose a schedule, plant a mutation, read
 * the report. Mirrored in attnbench/hopper/emulation.py.
 */
#ifndef ATTNBENCH_EMULATION_H
#define ATTNBENCH_EMULATION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* When asynchronous work (TMA, wgmma, bulk stores) executes. */
enum {
  ATTNBENCH_DELIVERY_LAZY = 0,  /* only when every thread is blocked: shows early release and missing waits */
  ATTNBENCH_DELIVERY_EAGER = 1, /* at once: shows overwritten buffers and barriers that complete too early */
  ATTNBENCH_DELIVERY_RANDOM = 2 /* after a random delay, out of order where the hardware may */
};

/* Accumulation of e4m3 wgmma. */
enum {
  ATTNBENCH_EMULATED_ACCUMULATOR_FP32 = 0,
  ATTNBENCH_EMULATED_ACCUMULATOR_TRUNCATED = 1 /* 14-bit aligned sums, as measured on Hopper */
};

/* What a launch checks. */
enum {
  ATTNBENCH_CHECKS_FULL = 0,
  ATTNBENCH_CHECKS_FAST = 1 /* no races, fences or registers in flight: only what stops a launch (deadlock, bounds,
                               counts of barriers) and the result */
};

/* What a mutation does to each call from one site. Not every kind applies to every primitive. */
enum {
  ATTNBENCH_MUTATION_NONE = 0,
  ATTNBENCH_MUTATION_DROP = 1,        /* the call does nothing (a wait returns at once; expect_tx only
                                         arrives; a shuffle gives each lane its own value, map_to_cta the
                                         own CTA's address) */
  ATTNBENCH_MUTATION_FLIP_PARITY = 2, /* try_wait looks at the other parity */
  ATTNBENCH_MUTATION_LESS = 3,        /* half the expect_tx bytes; one less in a count, or in the CTAs of a
                                         multicast */
  ATTNBENCH_MUTATION_MORE = 4,        /* twice the expect_tx bytes; one more in a count */
  ATTNBENCH_MUTATION_LAXER = 5,       /* wait_group<N> waits for N + 1 */
  ATTNBENCH_MUTATION_EARLY = 6,       /* an arrive moves before the blocking call that precedes it */
  ATTNBENCH_MUTATION_TWICE = 7,       /* an arrive counts twice */
  ATTNBENCH_MUTATION_A_START = 8,     /* descriptor of A: start 32 bytes further */
  ATTNBENCH_MUTATION_A_STEP = 9,      /* descriptor of A: as in the wgmma before it on the same accumulator */
  ATTNBENCH_MUTATION_A_STRIDE = 10,   /* descriptor of A: stride byte offset doubled */
  ATTNBENCH_MUTATION_A_LEADING = 11,  /* descriptor of A: leading byte offset doubled, where the layout uses it */
  ATTNBENCH_MUTATION_A_SWIZZLE = 12,  /* descriptor of A: 64-byte swizzle */
  ATTNBENCH_MUTATION_B_START = 13,
  ATTNBENCH_MUTATION_B_STEP = 14,
  ATTNBENCH_MUTATION_B_STRIDE = 15,
  ATTNBENCH_MUTATION_B_LEADING = 16,
  ATTNBENCH_MUTATION_B_SWIZZLE = 17,
  ATTNBENCH_MUTATION_COORDINATE = 18 /* TMA: one row further along the sequence */
};

typedef struct AttnbenchEmulationConfig {
  uint32_t struct_size;    /* sizeof(AttnbenchEmulationConfig) */
  int32_t delivery;        /* ATTNBENCH_DELIVERY_* */
  uint64_t seed;           /* of everything random: delays, thread order, elected lane, spurious try_wait failures */
  int32_t multiprocessors; /* what multiprocessor_count reports */
  int32_t resident_ctas;   /* CTAs in flight together, each on a thread of the host; 1 runs them one after another */
  int32_t accumulator;     /* ATTNBENCH_EMULATED_ACCUMULATOR_* */
  int32_t stop_at_first;   /* 1: a launch ends at its first hazard */
  int32_t mutation;        /* ATTNBENCH_MUTATION_* */
  int32_t mutation_site;   /* index as in attnbench_emulation_site; ignored where mutation is NONE */
  uint64_t step_limit;     /* scheduler steps of an engine after which a launch runs away; 0: the default */
  int32_t checks;          /* ATTNBENCH_CHECKS_* */
  int32_t reserved;        /* 0 */
} AttnbenchEmulationConfig;

/* A call of a primitive in kernel source. */
typedef struct AttnbenchEmulationSite {
  const char* primitive;
  const char* file;
  int32_t line;
  uint64_t calls; /* by threads, over all launches */
} AttnbenchEmulationSite;

/* Counters of the last launch. */
typedef struct AttnbenchEmulationStatistics {
  uint64_t steps;    /* warps resumed */
  uint64_t switches; /* fibers resumed */
  uint64_t wgmma;    /* warpgroup instructions executed */
  uint64_t tma_loads;
  uint64_t tma_stores;
  uint64_t mutated;  /* calls that the mutation changed */
  uint64_t spurious; /* try_wait failures made up */
} AttnbenchEmulationStatistics;

/* What the last launch did; nothing here depends on caches, of which none is modelled. */
typedef struct AttnbenchEmulationCounts {
  uint64_t global_read_bytes;  /* TMA loads (what lies in the tensor), and each thread's ordinary loads and atomics */
  uint64_t global_write_bytes; /* likewise, stores */
  uint64_t tensor_flops;       /* 2 x 64 x N x K of each wgmma, masked work included */
  uint64_t exponentials;       /* ex2 instructions, by threads */
  uint64_t wgmma_shared_bytes; /* operands that wgmma read from shared memory */
  uint64_t barrier_waits;      /* waits that ended on mbarriers and named barriers, once for the lanes of a warp */
} AttnbenchEmulationCounts;

/* TMA traffic of one tensor, known by its first byte. */
typedef struct AttnbenchEmulationTensor {
  const void* base;
  uint64_t read_bytes;
  uint64_t write_bytes;
} AttnbenchEmulationTensor;

/* 0, or 1 where the struct size or a field is wrong. Stays in force for later launches. */
int32_t attnbench_emulation_configure(const AttnbenchEmulationConfig* config);

/* Call sites seen so far, in order of first call; 0 past the end, else 1. */
int32_t attnbench_emulation_site(int32_t index, AttnbenchEmulationSite* out);

/* Hazards of the last launch, one line each: kind, tab, file:line, tab, text. Returns the length it would have. */
size_t attnbench_emulation_report(char* text, size_t bytes);

void attnbench_emulation_statistics(AttnbenchEmulationStatistics* out);

void attnbench_emulation_counts(AttnbenchEmulationCounts* out);

/* Tensors that the last launch's TMA copies touched; 0 past the end, else 1. */
int32_t attnbench_emulation_tensor(int32_t index, AttnbenchEmulationTensor* out);

#ifdef __cplusplus
}
#endif

#endif
