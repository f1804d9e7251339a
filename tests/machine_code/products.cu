// Loops with known products: m64n16k16 by wgmma with WGMMA defined, m16n8k16 by mma.sync with MMA_SYNC; one without any.

#include <cstdint>

extern "C" __global__ void __launch_bounds__(128) adds(float* out, int steps) {
    float sum = 0.f;
    for (int step = 0; step < steps; ++step) sum += exp2f(sum);
    // 64-bit division is a call into code behind the kernel's own.
    out[threadIdx.x] = sum + float((threadIdx.x + (1ull << 40)) / uint64_t(steps));
}

#ifdef WGMMA

extern "C" __global__ void __launch_bounds__(256) multiplies_bf16_d64(float* out, uint64_t a, uint64_t b, int steps) {
    float d[8] = {};
    for (int step = 0; step < steps; ++step) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 0, 0;"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
            : "l"(a + step), "l"(b + step));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    for (int i = 0; i < 8; ++i) out[i * 256 + threadIdx.x] = d[i];
}

#elif defined(MMA_SYNC)

extern "C" __global__ void __launch_bounds__(128) multiplies_fp16(float* out, uint32_t a, uint32_t b, int steps) {
    __shared__ float kept[128];
    float d[4] = {};
    for (int step = 0; step < steps; ++step)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%5, %5}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a + step), "r"(b + step));
    kept[threadIdx.x] = d[0];
    __syncthreads();
    out[threadIdx.x] = kept[127 - threadIdx.x] + d[1] + d[2] + d[3];
}

#endif
