// Divisions by multiplication (quantize.h, Divisor) against the real ones: every small divisor, powers of two and their
// neighbours, the largest; numerators around multiples and at the ends. Prints comparisons and mismatches.
#include <attnbench/quantize/quantize.h>

#include <cstdint>
#include <cstdio>

int main() {
  long long comparisons = 0, mismatches = 0;
  auto compare = [&](int64_t n, int64_t divisor, const attnbench::Divisor& by) {
    if (n < 0 || n > INT32_MAX) return;
    ++comparisons;
    mismatches += by.quotient(int(n)) != n / divisor;
  };
  auto all = [&](int64_t divisor) {
    if (divisor < 1 || divisor > INT32_MAX) return;
    const attnbench::Divisor by = attnbench::Divisor::of(int32_t(divisor));
    for (int64_t n = 0; n < 200; ++n) compare(n, divisor, by), compare(INT32_MAX - n, divisor, by);
    for (int64_t step = 1; step <= INT32_MAX / divisor; step = step * 3 + 1) {
      for (int64_t near = -1; near <= 1; ++near) compare(step * divisor + near, divisor, by);
    }
    const int64_t last = INT32_MAX / divisor * divisor;
    for (int64_t near = -1; near <= 1; ++near) compare(last + near, divisor, by);
  };
  for (int64_t divisor = 1; divisor <= 3000; ++divisor) all(divisor);
  for (int bit = 0; bit <= 31; ++bit) {
    for (int64_t near = -2; near <= 2; ++near) all((int64_t{1} << bit) + near);
  }
  for (uint32_t state = 1, i = 0; i < 3000; ++i) all((state = state * 1664525u + 1013904223u) >> 1);
  std::printf("%lld %lld\n", comparisons, mismatches);
}
