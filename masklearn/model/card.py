"""Reads what a model's card says of its licence, and the model's name on a hub.

A card is README.md. It begins with YAML between two lines of three dashes, by which hubs sort models
("Model Cards", Hugging Face Hub documentation). Anybody may have written it: what is not as documented is left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from masklearn.base.regular_file import require_file

__all__ = ["CARD", "CardFacts", "hub_name", "read_card"]

CARD = "README.md"
_MOST_BYTES = 1 << 16  # cards of models with hundreds of evaluations have some 20,000 bytes of YAML
_METADATA = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[\w.+-]{1,100}")
_LINK = re.compile(r"https?://[!-~]{1,500}|[\w./-]{1,200}")
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_REPOSITORY = re.compile(f"{_PART}/{_PART}", re.ASCII)


@dataclass(frozen=True)
class CardFacts:
    """Licence and languages that a card gives. A field is empty if the card does not give it.

    licence: an identifier such as `apache-2.0`; `other` has a name and a link.
    """

    licence: str = ""
    licence_name: str = ""
    licence_link: str = ""
    languages: tuple[str, ...] = ()


def read_card(model: Path) -> CardFacts:
    """Returns what the card of a model folder says; nothing if there is no card, or none that is as documented."""
    told = _metadata(model / CARD)
    languages = told.get("language")
    found = languages if isinstance(languages, list) else [languages]
    return CardFacts(
        _text(told.get("license"), _WORD),
        _text(told.get("license_name"), _WORD),
        _text(told.get("license_link"), _LINK),
        tuple(filter(None, (_text(one, _WORD) for one in found[:200]))),
    )


def hub_name(model: Path, config: dict[str, Any]) -> str:
    """Returns the name on a hub, `owner/model`, of a model folder that lies in the hub's cache or whose config.json names
    it; empty if neither tells."""
    for folder in (model, *model.parents):
        if folder.name.startswith("models--"):
            return _text(folder.name.removeprefix("models--").replace("--", "/", 1), _REPOSITORY)
    return _text(config.get("_name_or_path"), _REPOSITORY)


def _metadata(card: Path) -> dict[str, Any]:
    try:
        require_file(card)
        with card.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return {}
    if (found := _METADATA.match(text)) is None:
        return {}
    try:
        told = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _text(value: object, allowed: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and allowed.fullmatch(value) else ""
