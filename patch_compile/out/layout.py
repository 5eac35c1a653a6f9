"""Every path in OUT, once. All are relative to OUT, as the manifest names them."""

__all__ = [
    "BENCH",
    "BENCH_MODELS",
    "ENGINE",
    "ENGINE_FOLDER",
    "ENGINE_REPORT",
    "MANIFEST",
    "MASKS",
    "MODEL",
    "ONNX",
    "ONNX_FOLDER",
    "PAGE",
    "PLAN",
    "RECIPE",
    "REPORT",
    "VERIFY",
    "VERIFY_FOLDER",
]

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
MASKS = "masks.safetensors"
MODEL = "model"  # the pruned checkpoint, or the folder of the pruned ONNX file
PLAN = "plan.json"
ONNX_FOLDER = "onnx"
ONNX = "onnx/model.onnx"
ENGINE_FOLDER = "engine"
ENGINE = "engine/model.engine"
ENGINE_REPORT = "engine/engine.json"
REPORT = "report.json"
PAGE = "report.html"
VERIFY_FOLDER = "verify"
VERIFY = "verify/verify.json"
BENCH = "bench/bench.json"
BENCH_MODELS = "bench/models"
