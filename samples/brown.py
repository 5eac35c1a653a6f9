"""Converts the Brown corpus, form C (`word/tag` tokens, one sentence per line), to running text."""

import re

_OPENING = {"``", "`", "(", "[", "{", "$"}
_CLOSING = {"''", "'", ")", "]", "}", ",", ".", ";", ":", "?", "!", "%"}
_WRITTEN = {"``": '"', "''": '"', "`": "'"}
_DOUBLED = {"?", "!", ";"}  # the corpus writes these sentence ends twice


def detag(document: str) -> str:
    """Returns the text of a document, one paragraph per line. In the corpus a paragraph begins with an indented line."""
    paragraphs: list[list[str]] = []
    for line in document.splitlines():
        if line.startswith("\t") or not paragraphs:
            paragraphs.append([])
        paragraphs[-1] += _words(line)
    return "\n".join(text for text in map(_join, paragraphs) if text)


def _words(line: str) -> list[str]:
    return [token.rpartition("/")[0] or token for token in line.split()]


def _join(words: list[str]) -> str:
    """Joins words to text: no space inside brackets and quotes, and none before punctuation."""
    parts: list[str] = []
    glue = True
    for i, word in enumerate(words):
        if word in _DOUBLED and i and words[i - 1] == word:
            continue
        if not glue and word not in _CLOSING:
            parts.append(" ")
        parts.append(_WRITTEN.get(word, word))
        glue = word in _OPENING
    return re.sub(r"\s+", " ", "".join(parts)).strip()
