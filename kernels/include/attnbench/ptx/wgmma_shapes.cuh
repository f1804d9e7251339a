// The asm statements behind wgmma.cuh, one specialization of WgmmaShape for each N in use. PTX names every register
// of an operand, so the operand lists are spelled out here, once, by preprocessor lists: to add a shape, add its
// register list (ATTNBENCH_OPERANDS_*), its constraint list (ATTNBENCH_ACCUMULATORS_*) and one line at the end.
#pragma once

#include <attnbench/device.cuh>
#include <attnbench/layout.cuh>

// Constraints "+f"(d[i]) for i in [first, first + 8).
#define ATTNBENCH_D8(i)                                                                                    \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define ATTNBENCH_D16(i) ATTNBENCH_D8(i), ATTNBENCH_D8(i + 8)
#define ATTNBENCH_ACCUMULATORS_32 ATTNBENCH_D16(0), ATTNBENCH_D16(16)
#define ATTNBENCH_ACCUMULATORS_40 ATTNBENCH_ACCUMULATORS_32, ATTNBENCH_D8(32)
#define ATTNBENCH_ACCUMULATORS_48 ATTNBENCH_ACCUMULATORS_40, ATTNBENCH_D8(40)
#define ATTNBENCH_ACCUMULATORS_64 ATTNBENCH_ACCUMULATORS_48, ATTNBENCH_D16(48)
#define ATTNBENCH_ACCUMULATORS_80 ATTNBENCH_ACCUMULATORS_64, ATTNBENCH_D16(64)
#define ATTNBENCH_ACCUMULATORS_88 ATTNBENCH_ACCUMULATORS_80, ATTNBENCH_D8(80)
#define ATTNBENCH_ACCUMULATORS_96 ATTNBENCH_ACCUMULATORS_88, ATTNBENCH_D8(88)
#define ATTNBENCH_ACCUMULATORS_112 ATTNBENCH_ACCUMULATORS_96, ATTNBENCH_D16(96)
#define ATTNBENCH_ACCUMULATORS_128 ATTNBENCH_ACCUMULATORS_112, ATTNBENCH_D16(112)

// Their operand names, "%0, %1, ...", in the same order.
#define ATTNBENCH_OPERANDS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ATTNBENCH_OPERANDS_40 \
  ATTNBENCH_OPERANDS_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39"
#define ATTNBENCH_OPERANDS_48 \
  ATTNBENCH_OPERANDS_40 \
  ", %40, %41, %42, %43, %44, %45, %46, %47"
#define ATTNBENCH_OPERANDS_64 \
  ATTNBENCH_OPERANDS_48 \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ATTNBENCH_OPERANDS_80 \
  ATTNBENCH_OPERANDS_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define ATTNBENCH_OPERANDS_88 \
  ATTNBENCH_OPERANDS_80 \
  ", %80, %81, %82, %83, %84, %85, %86, %87"
#define ATTNBENCH_OPERANDS_96 \
  ATTNBENCH_OPERANDS_88 \
  ", %88, %89, %90, %91, %92, %93, %94, %95"
#define ATTNBENCH_OPERANDS_112 \
  ATTNBENCH_OPERANDS_96 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define ATTNBENCH_OPERANDS_128 \
  ATTNBENCH_OPERANDS_112 \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

namespace attnbench::ptx {

template <int N>
struct WgmmaShape;  // no specialization: this N is not in use

}  // namespace attnbench::ptx

// One statement. TYPES: ".f32.f16.f16"; K: 16 or 32; LIST: operand names of D; A: the A operand as text;
// P: the operand that says whether to accumulate; MAJOR: trailing transpose flags as text.
// The two literal 1s are the scale-A and scale-B immediates (no negation).
#define ATTNBENCH_WGMMA_TEXT(N, K, TYPES, LIST, A, B, P, MAJOR)                                         \
  "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N \
  "k" #K TYPES " {" LIST "}, " A ", " B ", accumulate, 1, 1" MAJOR ";\n}"

// a0 to a5 are the operand numbers that follow the N / 2 accumulators, as text: "%64", "%65", ...
#define ATTNBENCH_WGMMA_SHAPE(N, REGISTERS, a0, a1, a2, a3, a4, a5, a6)                                            \
  namespace attnbench::ptx {                                                                                       \
  template <>                                                                                                      \
  struct WgmmaShape<N> {                                                                                           \
    template <Dtype T, bool TransA, bool TransB>                                                                   \
    static ATTNBENCH_DEVICE_MEMBER void ss(float (&d)[REGISTERS], uint64_t a, uint64_t b, bool accumulate) {       \
      const int p = accumulate;                                                                                    \
      if constexpr (T == Dtype::fp16) {                                                                            \
        asm volatile(ATTNBENCH_WGMMA_TEXT(N, 16, ".f32.f16.f16", ATTNBENCH_OPERANDS_##REGISTERS, a0, a1, a2,       \
                                          ", " a3 ", " a4)                                                         \
                     : ATTNBENCH_ACCUMULATORS_##REGISTERS                                                          \
                     : "l"(a), "l"(b), "r"(p), "n"(int(TransA)), "n"(int(TransB)));                                \
      } else if constexpr (T == Dtype::bf16) {                                                                     \
        asm volatile(ATTNBENCH_WGMMA_TEXT(N, 16, ".f32.bf16.bf16", ATTNBENCH_OPERANDS_##REGISTERS, a0, a1, a2,     \
                                          ", " a3 ", " a4)                                                         \
                     : ATTNBENCH_ACCUMULATORS_##REGISTERS                                                          \
                     : "l"(a), "l"(b), "r"(p), "n"(int(TransA)), "n"(int(TransB)));                                \
      } else {                                                                                                     \
        asm volatile(ATTNBENCH_WGMMA_TEXT(N, 32, ".f32.e4m3.e4m3", ATTNBENCH_OPERANDS_##REGISTERS, a0, a1, a2, "") \
                     : ATTNBENCH_ACCUMULATORS_##REGISTERS                                                          \
                     : "l"(a), "l"(b), "r"(p));                                                                    \
      }                                                                                                            \
    }                                                                                                              \
    template <Dtype T, bool TransB>                                                                                \
    static ATTNBENCH_DEVICE_MEMBER void rs(float (&d)[REGISTERS], const uint32_t (&a)[4], uint64_t b,              \
                                           bool accumulate) {                                                      \
      const int p = accumulate;                                                                                    \
      if constexpr (T == Dtype::fp16) {                                                                            \
        asm volatile(ATTNBENCH_WGMMA_TEXT(N, 16, ".f32.f16.f16", ATTNBENCH_OPERANDS_##REGISTERS,                   \
                                          "{" a0 ", " a1 ", " a2 ", " a3 "}", a4, a5, ", " a6)                     \
                     : ATTNBENCH_ACCUMULATORS_##REGISTERS                                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p), "n"(int(TransB)));              \
      } else if constexpr (T == Dtype::bf16) {                                                                     \
        asm volatile(ATTNBENCH_WGMMA_TEXT(N, 16, ".f32.bf16.bf16", ATTNBENCH_OPERANDS_##REGISTERS,                 \
                                          "{" a0 ", " a1 ", " a2 ", " a3 "}", a4, a5, ", " a6)                     \
                     : ATTNBENCH_ACCUMULATORS_##REGISTERS                                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p), "n"(int(TransB)));              \
      } else {                                                                                                     \
        asm volatile(ATTNBENCH_WGMMA_TEXT(N, 32, ".f32.e4m3.e4m3", ATTNBENCH_OPERANDS_##REGISTERS,                 \
                                          "{" a0 ", " a1 ", " a2 ", " a3 "}", a4, a5, "")                          \
                     : ATTNBENCH_ACCUMULATORS_##REGISTERS                                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p));                                \
      }                                                                                                            \
    }                                                                                                              \
  };                                                                                                               \
  }

ATTNBENCH_WGMMA_SHAPE(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
ATTNBENCH_WGMMA_SHAPE(80, 40, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
ATTNBENCH_WGMMA_SHAPE(96, 48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
ATTNBENCH_WGMMA_SHAPE(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
ATTNBENCH_WGMMA_SHAPE(160, 80, "%80", "%81", "%82", "%83", "%84", "%85", "%86")
ATTNBENCH_WGMMA_SHAPE(176, 88, "%88", "%89", "%90", "%91", "%92", "%93", "%94")
ATTNBENCH_WGMMA_SHAPE(192, 96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
ATTNBENCH_WGMMA_SHAPE(224, 112, "%112", "%113", "%114", "%115", "%116", "%117", "%118")
ATTNBENCH_WGMMA_SHAPE(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

#undef ATTNBENCH_WGMMA_SHAPE
#undef ATTNBENCH_WGMMA_TEXT
#undef ATTNBENCH_D16
#undef ATTNBENCH_D8
