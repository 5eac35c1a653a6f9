"""The one place that spells paths in OUT. All are relative to OUT, as in the manifest.

`…_NAME` is the last part of a path, for a file of the same kind in another folder: `bench` writes engines and ONNX
files in a temporary folder, and `verify` fills one, which it then renames to `VERIFY_FOLDER`.
"""

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
MASKS = "masks.safetensors"
MODEL = "model"  # the pruned checkpoint, or the folder of the pruned ONNX file
PLAN = "plan.json"
ONNX_NAME = "model.onnx"
ONNX_FOLDER = "onnx"
ONNX = f"{ONNX_FOLDER}/{ONNX_NAME}"
# For onnxruntime-genai, with the tokenizer in the folder of a decoder's ONNX file.
GENAI_CONFIG_NAME = "genai_config.json"
PRUNED_ONNX = f"{MODEL}/{ONNX_NAME}"  # in builds from an ONNX file
ENGINE_NAME = "model.engine"
ENGINE_REPORT_NAME = "engine.json"
ENGINE_FOLDER = "engine"
ENGINE = f"{ENGINE_FOLDER}/{ENGINE_NAME}"
ENGINE_REPORT = f"{ENGINE_FOLDER}/{ENGINE_REPORT_NAME}"
REPORT = "report.json"
PAGE = "report.html"
CARD = "README.md"  # model card, as hubs show it
VERIFY_NAME = "verify.json"
VERIFY_INPUTS_NAME = "inputs.json"
VERIFY_HYBRID_NAME = "hybrid.json"
VERIFY_CHECKPOINT_NAME = "checkpoint.json"
VERIFY_FOLDER = "verify"
VERIFY = f"{VERIFY_FOLDER}/{VERIFY_NAME}"
# The pruned checkpoint with packed integers, as other programs read it.
COMPRESSED_FOLDER = "compressed-tensors"
# What TensorRT Edge-LLM builds from, and in it the graph of the language model. Edge-LLM's exporter sets these names.
EDGELLM_FOLDER = "edgellm"
EDGELLM_ONNX = f"llm/{ONNX_NAME}"
BENCH_FOLDER = "bench"
BENCH = f"{BENCH_FOLDER}/bench.json"

# An unfinished OUT has this suffix. It contains:
PARTIAL = ".partial"
STATE = "state.json"  # the finished stages
SCRATCH = "scratch"  # files that are removed when the build is published
