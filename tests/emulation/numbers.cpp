// The emulation's arithmetic on arrays, for test_numbers.py.
#include <attnbench/emulation/numeric.h>

using namespace attnbench::emulation;

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void exp2_each(const float* x, float* out, long count) {
  for (long i = 0; i < count; ++i) out[i] = exp2_of(x[i]);
}

// Chunks of 8 elements: as they are, and every eight of them transposed.
EXPORTED void widen_each(int is_f16, const unsigned char* packed, float* out, float* transposed, long chunks) {
  const Element element = is_f16 ? Element::f16 : Element::bf16;
  for (long i = 0; i < chunks; ++i) widen_chunk(element, packed + 16 * i, out + 8 * i);
  for (long i = 0; i < chunks; i += 8) {
    const unsigned char* rows[8];
    for (int row = 0; row < 8; ++row) rows[row] = packed + 16 * (i + row);
    widen_transposed(element, rows, transposed + 8 * i);
  }
}
