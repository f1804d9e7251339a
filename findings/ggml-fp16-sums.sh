#!/bin/sh
# ggml 0.13.1 (in pywhispercpp 1.5.1): flash attention on a CPU sums P V in fp16 where there are fewer than 64 queries.
#
# With k and v in fp16, `ggml_flash_attn_ext` adds weights times values up in fp16 and divides by the sum of weights at
# the end. Equal scores make the output the mean of v: of 2048 values of 100 it is inf, of 4096 values of 1.375 it is 1.
# With 64 queries in the same call another path runs, which is exact. GGML_PREC_F32 changes nothing. Decoding against a
# long fp16 cache is where it shows (a single query's keys are summed in parts, whose number depends on the threads);
# llama.cpp and whisper.cpp call this operator.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11, a CPU with AVX2 and F16C):
#   mean of 2048 values of 100: 2 queries inf, 64 queries 100.0
#   mean of 4096 values of 1.375: 2 queries 1.0, 64 queries 1.375
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6"
"$folder/venv/bin/pip" install --quiet --no-deps "pywhispercpp==1.5.1"
cat > "$folder/sums.py" <<'PYTHON'
import ctypes
import glob
import importlib.util
import os

import numpy

F32, F16, PREC_F32 = 0, 1, 10
HEAD_DIM = 64
wheel = os.path.dirname(os.path.dirname(importlib.util.find_spec("pywhispercpp").origin))
base, cpu = (ctypes.CDLL(glob.glob(f"{wheel}/pywhispercpp.libs/libggml-{part}-*.so*")[0]) for part in ("base", "cpu"))
for library, names in (
    (base, ("init", "new_tensor_4d", "flash_attn_ext", "new_graph", "backend_cpu_buffer_from_ptr")),
    (cpu, ("backend_cpu_init",)),
):
    for name in names:
        getattr(library, f"ggml_{name}").restype = ctypes.c_void_p
base.ggml_version.restype = ctypes.c_char_p


class Context(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def aligned(shape, dtype, value):
    """ggml wants memory at multiples of 32 bytes."""
    raw = numpy.zeros(int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize + 64, numpy.uint8)
    begin = -raw.ctypes.data % 64
    array = raw[begin : raw.size - 64 + begin].view(dtype).reshape(shape)
    array[...] = value
    return array


def mean(queries, keys, value, precise=False):
    """One head, all scores equal: each output is the mean of v."""
    pointer = ctypes.c_void_p
    context = pointer(base.ggml_init(Context(1 << 20, None, True)))

    def place(tensor, array):
        address, size = pointer(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        buffer = pointer(base.ggml_backend_cpu_buffer_from_ptr(address, size))
        assert base.ggml_backend_tensor_alloc(buffer, tensor, address) == 0

    def tensor(array, kind):
        sizes = [ctypes.c_int64(size) for size in reversed(array.shape)]
        made = pointer(base.ggml_new_tensor_4d(context, kind, *sizes))
        place(made, array)
        return made

    arrays = [
        aligned((1, 1, queries, HEAD_DIM), numpy.float32, 0),
        aligned((1, 1, keys, HEAD_DIM), numpy.float16, 0),
        aligned((1, 1, keys, HEAD_DIM), numpy.float16, value),
        aligned((1, queries, 1, HEAD_DIM), numpy.float32, 0),
    ]
    q, k, v = (tensor(array, kind) for array, kind in zip(arrays, (F32, F16, F16)))
    number = ctypes.c_float
    out = pointer(base.ggml_flash_attn_ext(context, q, k, v, None, number(0.125), number(0), number(0)))
    if precise:
        base.ggml_flash_attn_ext_set_prec(out, PREC_F32)
    place(out, arrays[3])
    graph = pointer(base.ggml_new_graph(context))
    base.ggml_build_forward_expand(graph, out)
    assert base.ggml_backend_graph_compute(pointer(cpu.ggml_backend_cpu_init()), graph) == 0
    return float(arrays[3][0, 0, 0, 0])


print("ggml", base.ggml_version().decode())
found = mean(2, 2048, 100), mean(64, 2048, 100), mean(2, 4096, 1.375), mean(64, 4096, 1.375)
print(f"mean of 2048 values of 100: 2 queries {found[0]}, 64 queries {found[1]}")
print(f"mean of 4096 values of 1.375: 2 queries {found[2]}, 64 queries {found[3]}")
assert found == (float("inf"), 100.0, 1.0, 1.375)
assert mean(2, 4096, 1.375, precise=True) == 1.0
PYTHON
"$folder/venv/bin/python" "$folder/sums.py"
