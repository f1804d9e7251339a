#!/bin/sh
# onnxruntime 1.32.0: MultiHeadAttention with `unidirectional`: the last of fewer queries than keys sees every key.
#
# Three queries, five keys, all scores equal, so that the output is each row's weights. Row 0 sees one key and row 1
# two, the top-left mask; the last row sees all five instead of three. With as many queries as keys the last row sees
# all by right, which is why it does not show there; no alignment of a causal mask (top-left: 1, 2, 3; bottom-right:
# 3, 4, 5) gives 1, 2, 5. The CPU provider does so in fp32 and in fp16.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11): keys that each row sees: [1, 2, 5]
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "onnx==1.23.2" "onnxruntime==1.32.0"
cat > "$folder/last_row.py" <<'PYTHON'
import numpy
import onnxruntime
from onnx import TensorProto, helper

QUERIES, KEYS, HEAD_DIM = 3, 5, 8


def seen(kind, dtype):
    """How many keys have a weight, a row."""
    shapes = {"q": [1, QUERIES, HEAD_DIM], "k": [1, KEYS, HEAD_DIM], "v": [1, KEYS, HEAD_DIM]}
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft", num_heads=1, unidirectional=1
    )
    graph = helper.make_graph(
        [node],
        "attention",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("out", kind, shapes["q"])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    q, k = (numpy.zeros(shapes[name], dtype) for name in "qk")
    v = numpy.eye(KEYS, HEAD_DIM, dtype=dtype)[None]
    (out,) = session.run(None, {"q": q, "k": k, "v": v})
    return (out[0] > 0).sum(axis=1).tolist()


print("onnxruntime", onnxruntime.__version__)
found = seen(TensorProto.FLOAT, numpy.float32)
print(f"keys that each row sees: {found}")
assert found == [1, 2, 5] and seen(TensorProto.FLOAT16, numpy.float16) == found
PYTHON
"$folder/venv/bin/python" "$folder/last_row.py"
