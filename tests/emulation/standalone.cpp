// Runs emulated libraries without Python, so that they can be tried on another processor under an emulator of that one:
//   standalone HAZARDS CLUSTER_HAZARDS SCALAR KERNEL...
// Every planted fault of hazards.cu and cluster_hazards.cu must be reported (and nothing else), and every variant of each
// kernel must agree with scalar attention, under all three deliveries. Prints a line for each failure and the counts;
// exit status 1 where anything failed.
#include <attnbench/abi.h>
#include <attnbench/emulation.h>
#include <attnbench/emulation/numeric.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <dlfcn.h>

namespace {

constexpr int DELIVERIES = 3, SEEDS = 2;

template <class Function>
Function* symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(2);
  }
  return reinterpret_cast<Function*>(found);
}

void* load(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(2);
  }
  return library;
}

// step_limit: of a launch that would never end; 0: the emulation's own, which is large.
void configure(void* library, int delivery, int seed, uint64_t step_limit) {
  AttnbenchEmulationConfig config = {};
  config.struct_size = sizeof config;
  config.delivery = delivery;
  config.seed = static_cast<uint64_t>(seed);
  config.multiprocessors = 2;
  config.resident_ctas = 1 + seed % 2;
  config.stop_at_first = 1;
  config.step_limit = step_limit;
  symbol<decltype(attnbench_emulation_configure)>(library, "attnbench_emulation_configure")(&config);
}

std::string report(void* library) {
  auto* read = symbol<decltype(attnbench_emulation_report)>(library, "attnbench_emulation_report");
  std::string text(read(nullptr, 0), '\0');
  read(text.data(), text.size() + 1);
  return text;
}

// Whether `kind` is a word of `expected`.
bool names(const std::string& expected, const std::string& kind) {
  return (" " + expected + " ").find(" " + kind + " ") != std::string::npos;
}

// Faults that the values alone show are not reported in every delivery, so one delivery and seed of a case must.
int check_hazards(void* library) {
  auto* name_of = symbol<const char*(int32_t)>(library, "hazard_name");
  auto* expected_of = symbol<const char*(int32_t)>(library, "hazard_expected");
  auto* run = symbol<int32_t(int32_t)>(library, "hazard_run");
  int failures = 0, cases = 0;
  for (; name_of(cases) != nullptr; ++cases) {
    const std::string expected = expected_of(cases);
    int reported = 0;
    for (int delivery = 0; delivery < DELIVERIES; ++delivery) {
      for (int seed = 0; seed < SEEDS; ++seed) {
        configure(library, delivery, seed, 20000);
        run(cases);
        const std::string text = report(library);
        if (text.empty()) continue;
        ++reported;
        if (names(expected, text.substr(0, text.find('\t')))) continue;
        std::printf("%s, delivery %d, seed %d: %s", name_of(cases), delivery, seed, text.c_str());
        ++failures;
      }
    }
    if (reported == 0 && !expected.empty()) {
      std::printf("%s: nothing reported\n", name_of(cases));
      ++failures;
    }
  }
  std::printf("%d planted faults and sound kernels, %d failures\n", cases, failures);
  return failures + (cases == 0);
}

constexpr int SEQLEN_Q = 257, SEQLEN_K = 200, HEADS = 2, HEADS_KV = 1;

float value_of(uint16_t bits, int dtype) {
  return dtype == ATTNBENCH_DTYPE_FP16 ? attnbench::emulation::f16_to_float(bits)
                                       : attnbench::emulation::bf16_to_float(bits);
}

// Values between -1 and 1 in steps of 1/64, exact in both types.
std::vector<uint16_t> draw(size_t count, int dtype, uint32_t seed) {
  std::vector<uint16_t> bits(count);
  for (uint16_t& one : bits) {
    seed = seed * 1664525u + 1013904223u;  // Numerical Recipes
    const float value = static_cast<float>(static_cast<int>(seed >> 25) - 64) / 64.0f;
    one = dtype == ATTNBENCH_DTYPE_FP16 ? attnbench::emulation::f16_from_float(value)
                                        : attnbench::emulation::bf16_from_float(value);
  }
  return bits;
}

struct Problem {
  std::vector<uint16_t> q, k, v, out;
  std::vector<float> lse;
  AttnbenchForwardArgs args = {};

  explicit Problem(const AttnbenchVariant& row) {
    const size_t d = static_cast<size_t>(row.head_dim);
    q = draw(SEQLEN_Q * HEADS * d, row.dtype, 1);
    k = draw(SEQLEN_K * HEADS_KV * d, row.dtype, 2);
    v = draw(SEQLEN_K * HEADS_KV * d, row.dtype, 3);
    out.assign(q.size(), 0xffff);
    lse.assign(SEQLEN_Q * HEADS, NAN);
    args.abi_version = ATTNBENCH_ABI_VERSION;
    args.struct_size = sizeof args;
    args.dtype = args.out_dtype = row.dtype;
    args.causal = row.causal == 1;
    args.batch = 1;
    args.seqlen_q = SEQLEN_Q;
    args.seqlen_k = SEQLEN_K;
    args.num_heads = HEADS;
    args.num_heads_kv = HEADS_KV;
    args.head_dim = args.head_dim_v = row.head_dim;
    args.softmax_scale = 0.125f;
    args.q = q.data(), args.k = k.data(), args.v = v.data(), args.out = out.data(), args.lse = lse.data();
    stride(args.q_strides, SEQLEN_Q, HEADS), stride(args.out_strides, SEQLEN_Q, HEADS);
    stride(args.k_strides, SEQLEN_K, HEADS_KV), stride(args.v_strides, SEQLEN_K, HEADS_KV);
  }

  void stride(int64_t (&strides)[3], int64_t seqlen, int64_t heads) const {
    strides[0] = seqlen * heads * args.head_dim;
    strides[1] = heads * args.head_dim;
    strides[2] = args.head_dim;
  }

  int32_t launch(void* library, int32_t variant) {
    alignas(16) static unsigned char workspace[64];
    args.variant = variant;
    args.workspace = workspace;
    args.workspace_bytes = sizeof workspace;
    return symbol<decltype(attnbench_launch)>(library, "attnbench_launch")(&args);
  }
};

// Row of the scalar library's table for a type, head_dim and mask.
int32_t scalar_row(void* library, const AttnbenchVariant& wanted) {
  auto* describe = symbol<decltype(attnbench_describe)>(library, "attnbench_describe");
  for (int32_t i = 0; const AttnbenchVariant* row = describe(i); ++i) {
    const bool mask = row->causal == -1 || row->causal == wanted.causal;
    if (row->dtype == wanted.dtype && row->head_dim == wanted.head_dim && mask) return i;
  }
  return -1;
}

// "" where `got` is as near to `want` as two roundings to 8 bits of mantissa allow.
std::string difference(const Problem& got, const Problem& want) {
  for (size_t i = 0; i < got.out.size(); ++i) {
    const float a = value_of(got.out[i], got.args.dtype), b = value_of(want.out[i], got.args.dtype);
    if (!(std::fabs(a - b) < 1.0f / 64)) return "out differs";
  }
  for (size_t i = 0; i < got.lse.size(); ++i) {
    const bool same = std::isinf(want.lse[i]) ? got.lse[i] == want.lse[i] : std::fabs(got.lse[i] - want.lse[i]) < 1e-3f;
    if (!same) return "lse differs";
  }
  return "";
}

int check_kernel(const char* path, void* scalar) {
  void* library = load(path);
  auto* describe = symbol<decltype(attnbench_describe)>(library, "attnbench_describe");
  int failures = 0, launches = 0;
  for (int32_t i = 0; const AttnbenchVariant* row = describe(i); ++i) {
    Problem want(*row);
    const int32_t reference = scalar_row(scalar, *row);
    if (reference < 0) continue;
    if (const int32_t status = want.launch(scalar, reference)) {
      std::printf("%s: the scalar reference refuses, status %d\n", row->kernel, status);
      ++failures;
      continue;
    }
    for (int delivery = 0; delivery < DELIVERIES; ++delivery) {
      Problem got(*row);
      configure(library, delivery, i, 0);
      const int32_t status = got.launch(library, i);
      const std::string wrong = status ? report(library) : difference(got, want);
      ++launches;
      if (wrong.empty()) continue;
      std::printf("%s, delivery %d: status %d %s\n", row->kernel, delivery, status, wrong.c_str());
      ++failures;
    }
  }
  std::printf("%s: %d launches, %d failures\n", path, launches, failures);
  return failures + (launches == 0);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (count < 4) {
    std::fprintf(stderr, "standalone HAZARDS CLUSTER_HAZARDS SCALAR KERNEL...\n");
    return 2;
  }
  int failures = check_hazards(load(arguments[1])) + check_hazards(load(arguments[2]));
  void* scalar = load(arguments[3]);
  for (int i = 4; i < count; ++i) failures += check_kernel(arguments[i], scalar);
  return failures == 0 ? 0 : 1;
}
