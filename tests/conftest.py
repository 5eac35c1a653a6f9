"""Tiny random models of every covered architecture, with a tokenizer, written as Hugging Face directories."""

import ast
import gc
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.models import auto_class
from patch_compile.errors import SPELLING
from patch_compile.hardware import cards
from patch_compile.onnx_export import trace
from tests.builds import TINY
from tests.fp32 import compute_in_fp32
from tests.parts import is_quick
from tests.refusals import COLLECTED, refusals_of
from tests.traces import Traces, kept_traces

# fmt: off
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far", "from", "big", "red", "house", "in",
         "rain", "while", "birds", "sang", "low"]
# fmt: on
TEXT = " ".join(WORDS[(i * i) % len(WORDS)] for i in range(400))  # for calibration
EVAL_TEXT = " ".join(WORDS[(i * i) % len(WORDS)] for i in range(7, 407))

# These sizes give ragged tiles (32x32) and grouped query attention; sliding windows are shorter than the text.
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
# Some architectures' defaults lie outside the tiny vocabulary.
_TOKENS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1}
_MOE: dict[str, Any] = _TOKENS | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "num_key_value_heads": 4,
}
_GEMMA: dict[str, Any] = _TOKENS | {
    "head_dim": 12,
    "query_pre_attn_scalar": 12,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5, "head_dim": 12},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"head_dim": 20},
    "gemma": _TOKENS | {"head_dim": 12},
    "gemma2": _GEMMA | {"final_logit_softcapping": 3.0},
    "gemma3_text": _GEMMA,
    "gemma3": _GEMMA | {"tie_word_embeddings": True},
    "phi3": _TOKENS | {"sliding_window": 5},
    "gpt2": _TOKENS,
    "opt": _TOKENS | {"ffn_dim": 72, "word_embed_proj_dim": 24},
    "gpt_neox": _TOKENS | {"rotary_pct": 0.5},
    "mixtral": _TOKENS | {"num_local_experts": 4, "sliding_window": 5},
    "qwen2_moe": _MOE | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 2},
    "qwen3_moe": _MOE | {"head_dim": 12},
    "bert": _TOKENS,
    "roberta": _TOKENS,
    "xlm-roberta": _TOKENS,
    "distilbert": _TOKENS | {"dim": 48, "hidden_dim": 72, "n_layers": 3, "n_heads": 4},
    "mpnet": _TOKENS,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# An example may take any time, also to be drawn.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

ModelMaker = Callable[..., Path]
trace.trace_model = Traces(trace.trace_model, kept_traces())  # `export_model` looks it up there


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let `--dist loadgroup` run each group of tests in one process."""
    from tests.groups import Scheduling

    return Scheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--quick`."""
    parser.addoption("--quick", action="store_true", help="run the quick tests")


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Name short plain data in a test's id by its text."""
    if not isinstance(val, dict | list | tuple) or len(text := repr(val)) > 100:
        return None
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):  # it holds objects
        return None
    return text


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that are not quick, if only the quick tests run."""
    config.stash[COLLECTED] = tuple(items)
    if config.getoption("quick"):
        config.hook.pytest_deselected(items=[item for item in items if not is_quick(item)])
        items[:] = filter(is_quick, items)


def pytest_collection_finish() -> None:
    """Leave loaded objects out of garbage collections: every training collects garbage, which would take a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Compare a test's refusals with its golden file."""
    with refusals_of(item):
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a failure again if CPython 3.11 could not parse a source because another thread parsed a source too."""
    try:
        return (yield)
    except SystemError:
        return pytest.TestReport.from_item_and_call(item, call)


@pytest.fixture(autouse=True)
def no_measured_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keeps a user's and the package's measurements out of the tests, and the tests' out of their folders."""
    monkeypatch.setattr("patch_compile.planning.measured.measured_folder", lambda: tmp_path / "measured")
    monkeypatch.setattr("patch_compile.planning.measured.shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path / "measured"


@pytest.fixture(autouse=True)
def no_setting_of_an_earlier_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command changes its process: the imports of Pythons that it starts, and the spelling of options. Here it is ours."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    SPELLING.set(str)


@pytest.fixture
def fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    compute_in_fp32(monkeypatch.setattr)


@pytest.fixture
def unrated_sm120(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the data sheets of the cards of sm120 away: an architecture without predictions."""
    unrated = tuple(cards.Card(card.name, card.sm) if card.sm == 120 else card for card in cards.CARDS)
    monkeypatch.setattr(cards, "CARDS", unrated)


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """make_model(model_type="llama", shard="5GB", dtype=float32, **config) writes a model to a folder of its own."""

    def make(
        model_type: str = "llama", shard: str = "5GB", dtype: torch.dtype = torch.float32, **settings: Any
    ) -> Path:
        path = tmp_path / f"{model_type}-{len(list(tmp_path.iterdir()))}"
        return write_model(path, model_type, shard, dtype, **settings)

    return make


def write_model(
    path: Path, model_type: str, shard: str = "5GB", dtype: torch.dtype = torch.float32, **settings: Any
) -> Path:
    """Write a random model with its tokenizer to `path`."""
    sizes = SIZES | EXTRA[model_type] | settings
    if model_type == "gemma3":  # a text model with a vision tower
        sizes = {"text_config": sizes, "vision_config": _VISION, "mm_tokens_per_image": 4}
    torch.manual_seed(1)
    model = auto_class(ARCHITECTURES[model_type]).from_config(AutoConfig.for_model(model_type, **sizes))
    with torch.no_grad():  # random norms and large weights, so that features differ in scale
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(dtype).save_pretrained(path, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text of 400 words that the tiny tokenizer knows."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def texts_in(folder: Path) -> dict[str, str]:
    """Write two texts that the tiny tokenizer knows, and return the settings that name them."""
    found = {}
    for setting, name, text in (("calib", "text.txt", TEXT), ("eval_text", "eval.txt", EVAL_TEXT)):
        (folder / name).write_text(text)
        found[setting] = str(folder / name)
    return found


@pytest.fixture
def settings(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings for building a tiny model, or for learning its masks."""
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    return {
        "model": model,
        **texts_in(text_file.parent),
        "out": tmp_path / "out",
        "ratio": 0.4,
        **TINY,
    }


@pytest.fixture
def sample_model() -> Path:
    """Path of the real sample model, which `make test` fetches."""
    return Path(os.environ.get("PATCH_COMPILE_MODEL", ".cache/models/smollm2-135m"))


@pytest.fixture
def sample_texts() -> Path:
    """Folder of the sample texts, which `make test` fetches."""
    return Path(os.environ.get("PATCH_COMPILE_TEXTS", ".cache/texts"))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="session")
def library_cache(request: pytest.FixtureRequest) -> Path:
    """Folder that keeps compiled kernels between test runs; the hash of the sources names a library."""
    return request.config.cache.mkdir("patch-host-kernel")


@pytest.fixture(scope="session")
def kernel(library_cache: Path) -> Any:
    """The kernels compiled for this machine's CPU."""
    from tests.plugins.host_kernel import compile_host_kernel

    return compile_host_kernel(library_cache)


@pytest.fixture(scope="session")
def integer_kernel(library_cache: Path) -> Any:
    """The kernels for int8 and int4 weights, compiled for this machine's CPU."""
    from tests.plugins.host_kernel import compile_integer_kernel

    return compile_integer_kernel(library_cache)


@pytest.fixture(scope="session")
def byte_kernel(library_cache: Path) -> Any:
    """The kernels for w8a8, compiled for this machine's CPU."""
    from tests.plugins.host_kernel import compile_byte_kernel

    return compile_byte_kernel(library_cache)
