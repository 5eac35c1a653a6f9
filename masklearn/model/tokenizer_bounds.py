"""Bounds what a tokenizer that anybody may have written makes of a text.

The library tokenizers is a native program: it takes the memory that a tokenizer.json asks for, and ends the process if there
is none. A few hundred bytes can replace each character by thousands, several times over. So a tokenizer is refused before it
is loaded if its parts may make a text far longer, and each text is normalised in small pieces before it is encoded.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from masklearn.base.errors import MaskLearnError
from masklearn.base.printable import counted
from masklearn.base.safe_read import parse_json

# How many times longer each part of a tokenizer may make a text, at worst. Published tokenizers stay below a quarter of it.
_MOST = {"normalizer": 4096.0, "pre_tokenizer": 16.0, "post_processor": 1.0, "decoder": 4096.0}
_MOST_STEPS = 64  # of a part; published tokenizers have up to 8
_STEPS = ("normalizers", "pretokenizers", "processors", "decoders")  # of a part of the type Sequence
# A character becomes up to 18 by Unicode's normal forms (U+FDFA), and repeating them adds none.
_UNICODE = {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer"}
_LONGEST_FORM = 18
_BYTES = 4  # of a character; ByteLevel makes a character of each
_SPECIAL = 64  # tokens that a template adds

# How many times as long as its text a normal form may be. Korean in NFKD is 3 times as long, emoji as bytes 4 times.
_MOST_LONGER = 8
_PIECE = 1000  # characters that are normalised at a time
_FIX = "Fetch the model again from a source that you trust."


def check_tokenizer(file: Path) -> None:
    """Raise MaskLearnError if a part of a tokenizer.json may make a text far longer, and ValueError if it is not JSON."""
    tokenizer = parse_json(file.read_bytes(), finite=False)
    for name in _MOST if isinstance(tokenizer, dict) else ():
        _check_part(str(file), name, tokenizer.get(name))


def check_normalizer(model_dir: str | Path, tokenizer: Any) -> None:
    """Check the normalizer of a loaded tokenizer as `check_tokenizer` does: transformers makes it of other files, too."""
    if (normalizer := _normalizer(tokenizer)) is not None:
        _check_part(str(model_dir), "normalizer", parse_json(normalizer.__getstate__()))


def check_text(tokenizer: Any, text: str) -> None:
    """Raise MaskLearnError if the normal form of a text is far longer than the text. It is measured in small pieces."""
    if (normalizer := _normalizer(tokenizer)) is None:
        return
    left = _MOST_LONGER * len(text) + _PIECE
    for start in range(0, len(text), _PIECE):
        left -= len(normalizer.normalize_str(text[start : start + _PIECE]))
        if left < 0:
            raise MaskLearnError(
                "The tokenizer makes the text far too long",
                f"The normal form of {len(text):,} characters has more than {_MOST_LONGER} times as many.",
                f"Give another text. If it is ordinary text, the tokenizer is at fault. {_FIX}",
            )


def _normalizer(tokenizer: Any) -> Any:
    return getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)


def _check_part(where: str, name: str, part: Any) -> None:
    steps = list(_steps(part))
    growth = math.prod(_growth(name, step) for step in steps)
    if name == "normalizer" and any(step.get("type") in _UNICODE for step in steps):
        growth *= _LONGEST_FORM
    if len(steps) > _MOST_STEPS or growth > _MOST[name]:
        raise MaskLearnError(
            f"The {name} of {where} may fill the memory",
            f"Its {counted(len(steps), 'step')} may make a text {growth:.4g} times as long, and at most {_MOST[name]:.4g} "
            f"times and {_MOST_STEPS} steps are taken.",
            _FIX,
        )


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [part]
    while waiting:
        if not isinstance(step := waiting.pop(), dict):
            continue
        if step.get("type") != "Sequence":
            yield step
        for inner in (step.get(name) for name in _STEPS):
            waiting += inner if isinstance(inner, list) else []


def _growth(part: str, step: Mapping[str, Any]) -> float:
    """Returns how many times longer one step may make a text of at least one character."""
    match step:
        case {"type": "Replace", "content": str(content), "pattern": {"String": str(pattern)}} if pattern:
            return max(1.0, len(content) / len(pattern))
        case {"type": "Replace", "content": str(content)}:
            return 1.0 + len(content)  # a regular expression may match between characters
        case {"type": "Prepend", "prepend": str(content)}:
            return 1.0 + len(content)
        case {"type": "ByteLevel"} if part in ("normalizer", "pre_tokenizer"):
            return _BYTES
        case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
            return _longest_of(charsmap)
        case {"type": "TemplateProcessing"}:
            return max(_templated(step, name) for name in ("single", "pair"))
    return 1.0


def _longest_of(charsmap: str) -> float:
    """Returns the length of the longest text that sentencepiece's table of replacements puts in the place of another."""
    try:
        table = base64.b64decode(charsmap)
    except (binascii.Error, ValueError):
        return 1.0
    texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
    return float(max(1, *(len(text.decode(errors="ignore")) for text in texts)))


def _templated(step: Mapping[str, Any], name: str) -> float:
    """Returns how often a template repeats a text; without end if it adds many tokens."""
    pieces, added = step.get(name), step.get("special_tokens")
    if not isinstance(pieces, list) or not isinstance(added, dict):
        return 1.0
    ids = [token.get("ids") for token in added.values() if isinstance(token, dict)]
    if len(pieces) > _SPECIAL or any(isinstance(tokens, list) and len(tokens) > _SPECIAL for tokens in ids):
        return math.inf
    sequences = [piece.get("Sequence") for piece in pieces if isinstance(piece, dict)]
    named = [sequence.get("id") for sequence in sequences if isinstance(sequence, dict)]
    return float(max((named.count(name) for name in named), default=1))
