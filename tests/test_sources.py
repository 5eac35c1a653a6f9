"""Rules that hold for every line of the sources: each is a scan, with code that the scan must find."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patch_compile.artifacts import layout

ROOT = Path(__file__).parents[1]
PACKAGES = ("patch_compile", "masklearn")
SOURCES = {
    str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8"))
    for folder in (*PACKAGES, "samples", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
}
Scan = Callable[[ast.Module], Iterator[str]]


def names(scan: Scan, *folders: str) -> dict[str, set[str]]:
    """What a scan finds in each file of the folders in which it finds anything."""
    found = {file: set(scan(tree)) for file, tree in SOURCES.items() if file.startswith(folders)}
    return {file: faults for file, faults in found.items() if faults}


LOADERS = {"from_pretrained", "from_config"}
# Other calls of transformers and torch that run code that comes with a model.
BANNED = {"get_class_from_dynamic_module", "get_cached_module_file", "load_custom_generate"}


def forbids(word: ast.keyword) -> bool:
    """True for `trust_remote_code=False`."""
    value = word.value
    return word.arg == "trust_remote_code" and isinstance(value, ast.Constant) and value.value is False


def loads_code(tree: ast.Module) -> Iterator[str]:
    """Python that could run a model's own code: loads that do not forbid it, and detours around the check."""
    forbidding = {
        id(call.func)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and any(map(forbids, call.keywords))
    }
    for node in ast.walk(tree):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        loads = isinstance(node, ast.Attribute) and name in LOADERS and id(node) not in forbidding
        pipeline = isinstance(node, ast.ImportFrom) and node.module == "transformers"
        if loads or name in BANNED or (pipeline and any(alias.name == "pipeline" for alias in node.names)):
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and not forbids(node):
            yield f"{node.lineno}: {ast.unparse(node)}"


def loaders(tree: ast.Module) -> Iterator[str]:
    """Calls that load a model, a configuration or a tokenizer."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    yield from (func.attr for func in calls if isinstance(func, ast.Attribute) and func.attr in LOADERS)


def test_every_load_forbids_the_models_own_code() -> None:
    assert names(loads_code, *PACKAGES, "samples", "benchmarks") == {}
    assert names(loaders, *PACKAGES).keys() == {"masklearn/model/pretrained.py"}


def test_commands_that_are_shown_forbid_it_too() -> None:
    """The template of the model card shows calls too."""
    shown = [
        file for folder in ("samples", "docs", "patch_compile") for file in (ROOT / folder).rglob("*.md")
    ]
    assert ROOT / "patch_compile/report/page/templates/card.md" in shown
    calls = [call for file in (ROOT / "README.md", *shown)
             for call in re.findall(r"\.from_pretrained\([^…\n]*", file.read_text(encoding="utf-8"))]  # fmt: skip
    assert calls and all("trust_remote_code=False" in call for call in calls)


# Calls that check neither size, depth nor types, and what stands in their place.
UNBOUNDED = {
    "json.loads": "masklearn.base.safe_read.parse_json",
    "json.load": "masklearn.base.safe_read.read_json",
    "yaml.safe_load": "patch_compile.artifacts.recipe_file.read_recipe",
    "np.load": "masklearn.base.npz.ArrayArchive",
    "np.prod": "math.prod, which does not overflow",
    "onnx.load": "patch_compile.onnx_io.proto.load_proto",
    "tomllib.load": "none yet",
    "tomllib.loads": "none yet",
    "pickle.load": "nothing: a pickle is a program",
    "pickle.loads": "nothing: a pickle is a program",
    "torch.load": "safetensors",
    "yaml.load": "nothing: tags are programs",
}
# The bounded readers themselves, and readers of files that come with the package or that the same run has written.
READERS = {
    "masklearn/model/folder.py": {"yaml.safe_load"},  # of the first 64 KiB, from which it takes short texts
    "masklearn/base/safe_read.py": {"json.loads"},
    "patch_compile/artifacts/recipe_file.py": {"yaml.safe_load"},
    "patch_compile/onnx_io/proto.py": {"onnx.load"},
    "masklearn/methods/gradient/prior.py": {"json.loads"},
    "masklearn/stream/hidden_states.py": {"json.loads"},
    "masklearn/training/checkpoints.py": {"json.loads"},
    "patch_compile/engine/plan_program.py": {"json.loads"},
    "patch_compile/python_process.py": {"pickle.load"},  # between two processes of this program
    "patch_compile/planning/roofline/launch_work.py": {"json.loads"},
    "patch_compile/verification/last_words.py": {"json.loads"},
}


def unbounded(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id.replace('numpy', 'np')}.{node.attr}"
            if name in UNBOUNDED:
                yield name


def test_readers_of_foreign_data_are_bounded() -> None:
    assert names(unbounded, *PACKAGES) == READERS


OWNER = "patch_compile/python_process.py"
# Names that start a program, or that name this Python.
STARTS = {"subprocess", "multiprocessing", "ProcessPoolExecutor", "runpy", "executable", "system", "popen"}
# Modules of os whose names begin so replace this process or start another.
OF_OS = ("exec", "spawn", "posix_spawn", "fork")
STARTERS = {
    OWNER: {"subprocess", "executable"},
    "patch_compile/cli/app.py": {"executable"},  # names it in a message
    "patch_compile/pipeline/edgellm.py": {"subprocess", "executable"},  # catches a time-out; a default that the owner starts
    "patch_compile/plugin/toolchain.py": {"subprocess"},  # nvcc and C++ compilers
    "samples/packages.py": {"subprocess"},  # npm
}  # fmt: skip


def starts(tree: ast.Module) -> Iterator[str]:
    """Names in Python code that start a program, or that name this Python."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                paths = [getattr(node, "module", None) or "", *(alias.name for alias in names)]
                yield from STARTS & {part for path in paths for part in path.split(".")}
            case ast.Attribute(value=ast.Name(id="os" | "sys"), attr=name):
                if name in STARTS or name.startswith(OF_OS):
                    yield name
            case ast.keyword(arg="num_workers" | "num_proc" as name):
                yield name


def test_only_one_module_starts_python() -> None:
    """It keeps the current folder out of the imports."""
    assert names(starts, *PACKAGES, "samples") == STARTERS


PATHS = {value for name, value in vars(layout).items() if name.isupper()}
# A name with a dot is a file's, and always a path. A word such as "model" is a path only behind a slash.
FILES = {path for path in PATHS if "." in path}
FOLDERS = PATHS - FILES
SPELLED = re.compile(
    "|".join([rf"(?<![\w-]){re.escape(one)}(?![\w-])" for one in FILES - {layout.PARTIAL}] + [r"\.partial\b"])
)


def spelled(tree: ast.Module) -> Iterator[str]:
    """Yield line and text of each string that spells a path of OUT; docstrings are ignored."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and text_of(node.right) in FOLDERS:
            yield f"{node.lineno}: {text_of(node.right)!r}"
        if isinstance(node, ast.JoinedStr):
            yield from (
                f"{node.lineno}: {text!r}" for text in map(text_of, node.values[1:]) if in_folder(text)
            )
        text = text_of(node)
        if id(node) not in prose and SPELLED.search(text):
            yield f"{getattr(node, 'lineno', 0)}: {text!r}"


def text_of(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def in_folder(text: str) -> bool:
    """True for a text such as `f"{out}/model"`."""
    return text.startswith("/") and re.split(r"[/\s,;:]", text[1:])[0] in FOLDERS


def test_only_the_layout_spells_paths_of_out() -> None:
    """So that a file of OUT is moved in one place."""
    found = names(spelled, "patch_compile")
    assert found.pop("patch_compile/artifacts/layout.py")
    assert found == {}


@pytest.mark.parametrize(
    ("scan", "source", "count"),
    [
        (loads_code, "AutoModel.from_pretrained(path, trust_remote_code=False)", 0),
        (loads_code, "AutoModel.from_pretrained(path)", 1),
        (loads_code, "AutoModel.from_pretrained(path, trust_remote_code=trusted)", 2),
        (loads_code, "AutoModel.from_pretrained(path, **settings)", 1),
        (loads_code, "auto_class(row).from_config(config)", 1),
        (loads_code, "dict(trust_remote_code=True)", 1),
        (loads_code, "from transformers import pipeline", 1),
        (loads_code, "get_class_from_dynamic_module('own.Own', path)", 1),
        (loaders, "AutoModel.from_pretrained(path)", 1),
        (unbounded, "json.loads(x)", 1),
        (unbounded, "a = np.load", 1),
        (unbounded, "numpy.load(x)", 1),
        (unbounded, "torch.load(x)", 1),
        (starts, "import subprocess", 1),
        (starts, "import torch.multiprocessing as mp", 1),
        (starts, "os.execvp('python', ['python'])", 1),
        (starts, "command = [sys.executable, '-m', 'pip']", 1),
        (starts, "DataLoader(texts, num_workers=2)", 1),
        (spelled, 'ONNX = "onnx/model.onnx"', 1),
        (spelled, 'out / "model"', 1),
        (spelled, 'path = out / "scratch" / "proof"', 1),
        (spelled, 'f"{out}/model, and more"', 1),
        (spelled, 'f"it holds no {what}, nor report.json"', 1),
        (spelled, 'out.with_name(out.name + ".partial")', 1),
    ],
)
def test_a_scan_finds_what_breaks_its_rule(scan: Scan, source: str, count: int) -> None:
    assert len(list(scan(ast.parse(source)))) == count
