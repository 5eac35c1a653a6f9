"""Models of the Hugging Face hub: `org/name`, or `org/name@revision`, stands for a snapshot in huggingface_hub's cache."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masklearn.base.errors import MaskLearnError
from masklearn.model.folder import CONFIG, TRAVELS

_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^\s@]+))?", re.ASCII)
# Files that travel with weights, also below the folders of sentence-transformers, and no pickles.
_WANTED = (
    *TRAVELS, "*.safetensors", "LICEN[CS]E*", "NOTICE*", "Notice*", "COPYING*", "*USE_POLICY*", "[0-9]_*/*",
    "additional_chat_templates/*",
)  # fmt: skip
_UNWANTED = ("original/*", "consolidated*", "*.bin")
_users: dict[str, bool] = {}  # the user's value of a switch that `block_hubs` sets


def fetched(model: Path, *, weights: bool = True) -> Path:
    """Returns the folder of a model's snapshot, which is fetched unless the cache has it.

    weights: False to fetch only config.json, whose path is returned. A path that exists, and one that can't be a hub id, is
    returned unchanged. huggingface_hub's own variables count: HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.

    Raises MaskLearnError for a model that the hub does not have or does not give, and without an answer of the hub.
    """
    asked = _ID.fullmatch(str(model))
    if asked is None or model.suffix == ".onnx" or model.exists():
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, revision = asked["name"], asked["revision"]
    with _as_the_user_set():
        try:
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=_WANTED if weights else CONFIG,
                    ignore_patterns=_UNWANTED,
                    tqdm_class=_late_bar(),
                )
            )
            if not any(folder.glob(needed := "*.safetensors" if weights else CONFIG)):
                raise FileNotFoundError(needed)
        except HFValidationError:
            return model
        except Exception as error:  # of huggingface_hub, of one of two HTTP clients, or of Xet
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a full disk, say
            raise _explained(error, name, revision) from error
    return folder if weights else folder / CONFIG


def spelled(model: Path) -> str:
    """Returns `org/name@commit` for a snapshot in huggingface_hub's cache, or its config.json, else the absolute path."""
    folder = model.parent if model.name == CONFIG else model
    repository = folder.parent.parent
    if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
        from huggingface_hub import constants

        name = repository.name.removeprefix("models--").replace("--", "/")
        if repository.parent.resolve() == Path(constants.HF_HUB_CACHE).resolve() and _ID.fullmatch(name):
            return f"{name}@{folder.name}"
    return str(model.resolve())


def model_name(model: str) -> str:
    """Returns the name of a folder, or of a hub's model without organisation and commit. model: from `spelled`."""
    name = Path(model).name
    return name if Path(model).is_absolute() else name.partition("@")[0]


def block_hubs(blocked: bool) -> None:
    """Let libraries show no bars from here on and, if `blocked`, ask no hub. `fetched` does both as the user has set it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    offline = _users.setdefault("HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
    constants.HF_HUB_OFFLINE = blocked or offline
    if blocked:  # for other libraries, and for processes that this one starts
        os.environ["HF_HUB_OFFLINE"] = "1"
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        disable_progress_bars()


@contextmanager
def _as_the_user_set() -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    blocked, silent = constants.HF_HUB_OFFLINE, are_progress_bars_disabled()
    constants.HF_HUB_OFFLINE = _users.get("HF_HUB_OFFLINE", blocked)
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        enable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = blocked
        if silent:
            disable_progress_bars()


def _late_bar() -> Any:
    """Returns huggingface_hub's class of progress bars, without bars of less than two seconds."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings | {"delay": 2.0})

    return Bar


def _explained(error: Exception, name: str, revision: str | None) -> MaskLearnError:
    from huggingface_hub import constants, errors

    log_in = "set HF_TOKEN or log in with `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return MaskLearnError(
            f"The model {name} is gated",
            "The hub gives it only to accounts that accepted its terms.",
            f"Accept the terms on {constants.ENDPOINT}/{name}, and {log_in}.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return MaskLearnError(
            f"There is no model {name}",
            f"No folder has this name, and {constants.ENDPOINT} shows no such model.",
            f"Correct the name. For a private model {log_in}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return MaskLearnError(
            f"The model {name} has no revision {revision}",
            "The hub knows no branch, no tag and no commit of this name.",
            f"Correct it, or give {name} for the newest.",
        )
    if constants.HF_HUB_OFFLINE:
        return MaskLearnError(
            f"The model {name} is not, or not whole, in the cache",
            f"HF_HUB_OFFLINE is set, so the hub is not asked. The cache is {constants.HF_HUB_CACHE}.",
            f"Fetch it where there is a network, with `hf download {name}`, or unset HF_HUB_OFFLINE.",
        )
    if type(error) is FileNotFoundError:
        return MaskLearnError(
            f"No {error} of {name} was fetched",
            "The hub has only other files, such as pickles or GGUF; or it gave no answer, and the cache has none.",
            "Check the network. Else give the model that it was made from, or a folder that save_pretrained wrote.",
        )
    cause = error.__cause__ or error
    why = f"{type(cause).__name__}: {cause}".partition("\n")[0]
    return MaskLearnError(
        f"The model {name} cannot be fetched",
        f"No folder has this name, and {constants.ENDPOINT} gives no answer: {why}",
        "Check the network and HF_ENDPOINT, or give a folder. What was fetched stays in the cache.",
    )
