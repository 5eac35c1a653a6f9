"""samples/trtexec.md: commands that need no GPU are run; flags, names and shapes of the others are checked."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path

import pytest

from masklearn.masks.maskset import MaskSet
from patch_compile.engine.profiles import default_profiles
from patch_compile.onnx_io.graph_inputs import GraphInput
from patch_compile.packing.function import VERSION
from tests.builds import build

PAGE = Path(__file__).parents[2] / "samples" / "trtexec.md"
KV_HEADS, HEAD_DIM = 3, 64  # of SmolLM2-135M, and of the small model here
BLOCKS = 2

# From `--help` in NVIDIA/TensorRT, samples/common/sampleOptions.cpp, commit 6e50a4cc (TensorRT 11), and for two flags of
# TensorRT 10 from 10.5: Build, Inference, Reporting and System Options, without options of DLA and safety.
TRTEXEC = """
    --onnx --minShapes --optShapes --maxShapes --profile --inputIOFormats --outputIOFormats --memPoolSize
    --profilingVerbosity --avgTiming --refit --stripWeights --stripAllWeights --versionCompatible --vc
    --pluginInstanceNorm --enablePluginOverride --useRuntime --leanDLLPath --excludeLeanRuntime --sparsity --noTF32
    --decomposableAttentions --saveEngine --loadEngine --asyncFileReader --getPlanVersionOnly --tacticSources
    --noBuilderCache --noCompilationCache --errorOnTimingCacheMiss --timingCacheFile --preview
    --builderOptimizationLevel --maxTactics --hardwareCompatibilityLevel --runtimePlatform --tempdir
    --tempfileControls --maxAuxStreams --allowWeightStreaming --markDebug --markUnfusedTensorsAsDebugTensors
    --tilingOptimizationLevel --l2LimitForTiling --refitFromOnnx --stronglyTyped
    --shapes --loadInputs --iterations --warmUp --duration --sleepTime --idleTime --infStreams --exposeDMA
    --includeDataTransfers --noDataTransfers --useManagedMemory --noSpinWait --useSpinWait --threads --noCudaGraph
    --useCudaGraph --timeDeserialize --timeRefit --separateProfileRun --skipInference --persistentCacheRatio
    --useProfile --allocationStrategy --saveDebugTensors --saveAllDebugTensors --weightStreamingBudget
    --verbose --avgRuns --percentile --dumpRefit --dumpOutput --dumpRawBindingsToFile --dumpProfile --dumpLayerInfo
    --dumpOptimizationProfile --exportTimes --exportOutput --exportProfile --exportLayerInfo
    --device --staticPlugins --dynamicPlugins --setPluginsToSerialize --ignoreParsedPluginLibs --help
"""
# From TensorRT-RTX's manual: the pages that samples/trtexec.md names, and "Quick Start Guide".
TENSORRT_RTX = """
    --onnx --saveEngine --loadEngine --shapes --minShapes --optShapes --maxShapes --skipInference
    --specializeStrategyDS --runtimeCacheFile --rtxCudaGraphStrategy --profilingVerbosity --dumpLayerInfo --dumpProfile
    --includeDataTransfers --noSpinWait --maxAuxStreams --warmUp --duration --iterations --monitorMemory --help
"""
RTX_UNDOCUMENTED = {"--useProfile", "--loadInputs"}


def fences(title=None):
    """Shell blocks of the page, or of the section with this title."""
    text = PAGE.read_text()
    if title is not None:
        text = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", text, re.S)


def commands(tool):
    """Arguments of every call of a tool on the page, expanded as bash does."""
    found = []
    for fence in fences():
        for line in re.sub(r"\\\n\s*", " ", fence).splitlines():
            command = re.match(rf"(?:\w+=\S+ +)*{tool} (.*)", line)
            if command:
                done = bash(
                    f"printf '%s\\0' {command[1]}", {"OUT": "OUT", "WORK": "WORK", "PLUGIN": "PLUGIN.so"}
                )
                found.append(done.stdout.rstrip("\0").split("\0"))
    return found


def bash(script, variables):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=os.environ | variables | {"PATH": path}, capture_output=True, text=True,
    )  # fmt: skip


def listed(text):
    return set(text.split())


def flags(arguments):
    return [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]


def graph_inputs(blocks):
    """Inputs of a decoder by its ONNX file."""
    cache = [
        GraphInput(f"past_key_values.{i}.{part}", ("batch", KV_HEADS, "past", HEAD_DIM))
        for i in range(blocks)
        for part in ("key", "value")
    ]
    tokens = [GraphInput(name, ("batch", "sequence")) for name in ("input_ids", "position_ids")]
    return (*tokens, GraphInput("attention_mask", ("batch", "total")), *cache)


INPUTS = graph_inputs(30)
PROFILES = default_profiles(INPUTS)


def trtexec_shapes(spec):
    """Shapes of the inputs by name. trtexec allows one wildcard in a name. Fails for a name without an input."""
    shapes = {}
    for item in spec.split(","):
        pattern, _, sizes = item.partition(":")
        named = [given.name for given in INPUTS if fnmatchcase(given.name, pattern)]
        assert named, f"no input is called {pattern}"
        shapes |= {name: tuple(map(int, sizes.split("x"))) for name in named}
    assert set(shapes) == {given.name for given in INPUTS}
    return shapes


def option(arguments, flag):
    (value,) = (a.partition("=")[2] for a in arguments if a.startswith(f"{flag}="))
    return value


_built: dict[str, str] = {}


@pytest.fixture
def page(request):
    """The page's variables for a build of a small model with SmolLM2's key and value heads."""
    if not _built:
        settings, tmp_path = request.getfixturevalue("settings"), request.getfixturevalue("tmp_path")
        model = request.getfixturevalue("make_model")(
            hidden_size=192, intermediate_size=256, num_hidden_layers=BLOCKS, head_dim=HEAD_DIM,
            num_attention_heads=2 * KV_HEADS, num_key_value_heads=KV_HEADS,
        )  # fmt: skip
        # The weights change with the masks, so that a comparison with other weights than the pruned weights would fail.
        build(settings | {"model": model, "method": "sparsegpt"})
        (tmp_path / "work").mkdir()
        _built.update(OUT=str(settings["out"]), MODEL=str(model), WORK=str(tmp_path / "work"))
    return _built


def run_fence(fence, page):
    fewer = fence.replace("{0..29}", f"{{0..{BLOCKS - 1}}}").replace("range(30)", f"range({BLOCKS})")
    done = bash(fewer, page)
    return done.returncode, done.stdout + done.stderr


def passes(fence, page):
    code, said = run_fence(fence, page)
    assert code == 0, f"{fence}\n{said}"
    return said


def without_gpu():
    """Blocks that need no GPU, by their first word."""
    return {re.split(r"[\s=]", fence)[0]: fence for fence in fences("Without a GPU")}


def test_blocks_that_need_onnx_runtime_run(page):
    blocks = without_gpu()
    assert list(blocks) == ["polygraphy", "patch-compile", "RTX", "python"]
    said = passes(blocks["polygraphy"], page)
    for given in graph_inputs(BLOCKS):
        dims = ", ".join(repr(dim) for dim in given.dims)
        assert re.search(rf"{re.escape(given.name)} \[dtype=\w+, shape=\({re.escape(dims)}\)\]", said)
    said = passes(blocks["patch-compile"], page)
    assert "PASSED | Cosine Similarity | All outputs matched" in said, said
    work = Path(page["WORK"])
    assert {"inputs.json", "dense.json", "hybrid.json"} <= {path.name for path in work.iterdir()}
    passes(blocks["python"], page)
    for arguments in [*commands("trtexec")[:2], *commands("tensorrt_rtx")]:
        shapes = trtexec_shapes(option(arguments, "--shapes"))
        loaded = dict(item.split(":") for item in option(arguments, "--loadInputs").split(","))
        assert set(loaded) == {"input_ids", "position_ids", "attention_mask"}
        for name, file in loaded.items():
            assert (work / Path(file).name).stat().st_size == 8 * prod(shapes[name]), name


def test_the_comparison_fails_for_other_masks(page):
    """Masks that keep the two other weights of every group exceed the page's threshold."""
    masks = MaskSet.load(Path(page["OUT"]) / "masks.safetensors")
    others = {name: dataclasses.replace(masks[name], pattern=5 - masks[name].pattern) for name in masks}
    written = MaskSet(others, method="none", seed=0, base_model="", base_sha256="", ratio_asked=0.4)
    written.save(Path(page["WORK"]) / "others.safetensors")
    fence = without_gpu()["patch-compile"]
    changed = fence.replace("$OUT/masks", "$WORK/others").replace("$WORK/dense", "$WORK/others")
    code, said = run_fence(changed, page)
    assert code == 1 and "Mismatched outputs: ['logits'" in said, said


@pytest.mark.rtx
def test_polygraphy_converts_with_the_plugin(page):
    """The engine has two profiles, and its linears are plugin layers."""
    said = passes(without_gpu()["RTX"], page)
    for fact in (
        r"targets +sm86",
        r"programs +2",
        r"PatchLinear +7",
        rf"plugin beside +version {VERSION}, backend: tensorrt-rtx",
    ):
        assert re.search(fact, said), said


def test_flags_are_documented():
    for tool, known in (
        ("trtexec", listed(TRTEXEC)),
        ("tensorrt_rtx", listed(TENSORRT_RTX) | RTX_UNDOCUMENTED),
    ):
        used = [flag for arguments in commands(tool) for flag in flags(arguments)]
        assert used and set(used) <= known, set(used) - known
    assert listed(TRTEXEC) >= RTX_UNDOCUMENTED
    assert all(f"`{flag}`" in PAGE.read_text() for flag in RTX_UNDOCUMENTED)
    in_prose = re.findall(r"`(--\w[\w-]*)", re.sub(r"```sh\n.*?```", "", PAGE.read_text(), flags=re.S))
    polygraphys = {"--ignore-external-data", "--show", "--trt-", "--plugins", "--help"}
    assert set(in_prose) <= listed(TRTEXEC) | polygraphys | {"--embed-plugin"}  # of `patch-compile build`


def test_polygraphy_knows_its_flags():
    for arguments in commands("polygraphy"):
        tool = arguments[:1] if arguments[0] != "inspect" else arguments[:2]
        helps = [
            bash(f"polygraphy {' '.join(tool)} --help", {"POLYGRAPHY_USE_TENSORRT_RTX": rtx}).stdout
            for rtx in ("0", "1")  # only one of the two backends has --compute-capabilities
        ]
        known = set(re.findall(r"--[\w-]+", "".join(helps)))
        assert len(known) > 20 and set(flags(arguments)) <= known, set(flags(arguments)) - known


def test_loads_fit_the_profile_they_name():
    """Names, ranks and sizes of --shapes lie within the profiles of a build."""
    loads = [a for a in [*commands("trtexec"), *commands("tensorrt_rtx")] if "--shapes" in flags(a)]
    assert [option(a, "--useProfile") for a in loads] == ["0", "1", "1"]
    for arguments in loads:
        profile = PROFILES[int(option(arguments, "--useProfile"))]
        for name, shape in trtexec_shapes(option(arguments, "--shapes")).items():
            limits = profile.shapes[name]
            assert len(shape) == len(limits.min)
            assert all(a <= b <= c for a, b, c in zip(limits.min, shape, limits.max, strict=True)), name


def test_builds_have_the_profiles_of_patch_compile():
    (built,) = [a for a in commands("trtexec") if "--onnx" in flags(a)]
    for index, profile in enumerate(PROFILES):
        start = built.index(f"--profile={index}")
        for kind, spec in zip(("min", "opt", "max"), built[start + 1 : start + 4], strict=True):
            flag, _, shapes = spec.partition("=")
            assert flag == f"--{kind}Shapes"
            assert trtexec_shapes(shapes) == {n: getattr(s, kind) for n, s in profile.shapes.items()}
    (converted,) = [a for a in commands("polygraphy") if a[0] == "convert"]
    for kind in ("min", "opt", "max"):
        found = []
        for start in (i for i, word in enumerate(converted) if word == f"--trt-{kind}-shapes"):
            rest = converted[start + 1 :]
            end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
            named = (word.rpartition(":") for word in rest[:end])
            found.append({name: tuple(map(int, re.findall(r"\d+", shape))) for name, _, shape in named})
        assert found == [{n: getattr(s, kind) for n, s in profile.shapes.items()} for profile in PROFILES]


def test_every_block_is_bash():
    for fence in fences():
        done = subprocess.run(["bash", "-n", "-c", fence], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert shlex.split(fence.split("<<")[0])
