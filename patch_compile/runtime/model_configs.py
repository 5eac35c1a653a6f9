"""Reads config.json and generation_config.json of a model folder, as far as generating text needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from masklearn.model.config_bounds import check_config
from masklearn.model.folder import read_json_object
from patch_compile.errors import UsageError, reading
from patch_compile.runtime.sampling import Sampling


class _Generation(BaseModel):
    """The settings of a generation_config.json that are used here. None stands for the default of `transformers`."""

    model_config = ConfigDict(strict=True)

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | list[int] | None = None


@dataclass(frozen=True)
class ModelConfigs:
    """Settings of a model folder. config: the object in config.json; sampling: of generation_config.json."""

    config: dict[str, Any]
    generation: _Generation
    sampling: Sampling

    @property
    def text(self) -> dict[str, Any]:
        text: dict[str, Any] = self.config.get("text_config") or self.config
        return text

    @property
    def positions(self) -> int | None:
        """Largest number of tokens of a sequence; None if the config names none."""
        return self.text.get("max_position_embeddings") or self.text.get("n_positions")

    @property
    def window(self) -> int | None:
        """Length of the model's sliding window in tokens, as in the exported mask; None without a window."""
        kinds = self.text.get("layer_types")
        return self.text.get("sliding_window") if kinds is None or "sliding_attention" in kinds else None

    def end_tokens(self, tokenizer: Any) -> tuple[int, ...]:
        """Returns the ids that end a text. The model's configs come first and may name several, then the tokenizer.

        tokenizer: None uses only the configs.
        """
        of_tokenizer = getattr(tokenizer, "eos_token_id", None)
        for ids in (self.generation.eos_token_id, self.config.get("eos_token_id"), of_tokenizer):
            if ids is not None:
                return tuple(ids if isinstance(ids, list) else [ids])
        return ()

    def token(self, name: str) -> int | None:
        """Returns a token such as `bos_token_id`; None if the configs name none, or several."""
        for token_id in (getattr(self.generation, name), self.text.get(name)):
            if isinstance(token_id, int):
                return token_id
        return None


def read_model_configs(model: Path) -> ModelConfigs:
    """Returns the configs of a model folder. A missing file counts as an empty file.

    Raises PatchCompileError for a file that is not a JSON object or has settings that no model has.
    """
    config_file, generation_file = model / "config.json", model / "generation_config.json"
    config = _json(config_file)
    check_config(config_file, config)
    content = _json(generation_file)
    with reading(generation_file, "Fetch the model again.", what="holds settings that no model has"):
        generation = _Generation.model_validate(content)
        return ModelConfigs(config, generation, _sampling(generation))


def _sampling(generation: _Generation) -> Sampling:
    """Returns the sampling of the model's generation_config.json, with the defaults of `transformers`."""
    penalty = generation.repetition_penalty or 1.0

    def setting(value: float | None, default: float) -> float:
        return default if value is None else value

    try:
        if not generation.do_sample:
            return Sampling(repetition_penalty=penalty)
        return Sampling(
            setting(generation.temperature, 1.0),
            int(setting(generation.top_k, 50)),
            setting(generation.top_p, 1.0),
            penalty,
        )
    except UsageError as error:  # the settings come from a file, not from the user's command
        raise ValueError(f"{error.what}. {error.why}") from None


def _json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
