"""Options that earlier states had, and what does the job now, for the error of a command line that still has one."""

from patch_compile.artifacts.layout import ONNX, PAGE, RECIPE

# An option that other commands still have is named with its command.
GONE = {
    "--budget-ms": "`--speedup 25ms` sets the milliseconds.",
    "--checkpoint-every": "Training is saved regularly.",
    "--criterion": "The method's own counts.",
    "--damping": "It follows from the number of calibration tokens.",
    "--distill-weight": "The distance (KL) to the dense model's predictions counts in full.",
    "--edgellm-python": "`build --for edgellm=PYTHON` and `export --format edgellm=PYTHON` name it.",
    "--gradient-checkpointing": "Training does so where memory is short.",
    "--hardware-compatible": "`--compatible hardware` lets any GPU from Ampere on run the engine.",
    "--label-weight": "Repair learns the dense model's predictions only.",
    "--learning-rate": "The method's own counts; a recipe's learning_rate overrides it: `build --recipe`.",
    "--no-fuse": "`--fuse none` gives each linear its own node.",
    "--optimization-level": "TensorRT's own level counts.",
    "--precision": "Training and solving compute in bf16 where the device has units for it, else in fp32.",
    "--prompt": "Each build's report shows how both models continue a prompt; `run` continues any other.",
    "--threads": f"OMP_NUM_THREADS sets the number, and {RECIPE} records it where masks depend on it.",
    "--verbose": f"{PAGE} names each node that stays dense with its reason.",
    "--version-compatible": "`--compatible versions` lets later versions of the backend run the engine.",
    "--weight-streaming": "Weights stay on the GPU: int8 and int4 (`--weights`) make them smaller.",
    "bench --keep": "Engines for comparison are built again in each run.",
    "bench --runner": "It times engines; without a GPU the report has the predicted speed, and `polygraphy run "
    f"OUT/{ONNX} --onnxrt` times an ONNX file.",
    "build --bytes": "`learn --bytes` learns masks by size, and `build --mask` compiles them.",
    "compare --force": "It prints one table, and `--json` gives its numbers; nothing is written.",
    "compare --out": "It prints one table, and `--json` gives its numbers to a plotter.",
    "compare --x": "It prints one table, and `--json` gives its numbers to a plotter.",
    "verify --new-tokens": "Each build's report shows how both models continue a prompt; `run` continues any other.",
    "verify --sensitivity": "`where` ranks linears by their error.",
    "verify --sensitivity-tokens": "`where` ranks linears by their error.",
    "verify --task-backend": "Tasks run on both checkpoints in transformers.",
}
