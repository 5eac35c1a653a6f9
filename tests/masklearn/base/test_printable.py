import json

import pytest

from masklearn.base.printable import json_printable, one_line, printable, shown

HOSTILE = {
    "\x1b[2J": "\\x1b[2J",
    "\x9b31m": "\\x9b31m",
    "a\rb\x00\x08\x7f": "a\\x0db\\x00\\x08\\x7f",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066a\u2069\u200e\u2028": "\\u2066a\\u2069\\u200e\\u2028",
    "\udcff": "\\udcff",
    "\U000e0041": "\\U000e0041",
}
KEPT = "Zürich 東京 العربية हिन्दी 👩\u200d🔬 می\u200cخواهم \\ \t \n é…·→"


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_obey_is_spelled(text: str) -> None:
    assert printable(text) == one_line(text) == HOSTILE[text]
    escaped = json_printable(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(escaped) == {"a": text} and escaped == printable(escaped)


def test_letters_lines_and_tabs_stay() -> None:
    assert printable(KEPT) == KEPT
    assert one_line("a\nb") == "a\\nb"
    assert json_printable(json.dumps(KEPT, ensure_ascii=False)) == json.dumps(KEPT, ensure_ascii=False)


def test_values_are_shown_in_a_few_characters() -> None:
    nested: list[object] = ["lol"]
    for _ in range(50):  # its own repr has 9**50 words
        nested = [nested] * 9
    for value in (nested, "a" * 10**6, 10**4000, 1 << 10**6, {str(i): i for i in range(999)}, b"a" * 999):
        assert len(shown(value)) < 99
    assert (shown("x"), shown(1.5), shown([1, "a"])) == ("x", "1.5", "[1, 'a']")
