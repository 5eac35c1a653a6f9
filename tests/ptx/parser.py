"""Parses PTX text into instructions: resolves scopes, labels and registers, and interprets nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Operand = str | tuple[str, ...]  # a register, immediate, symbol or [address]; a tuple is a {vector}


class PtxFault(RuntimeError):
    """PTX that the interpreter does not know, or an action that the ISA forbids."""


@dataclass(frozen=True)
class Instruction:
    """One instruction. `predicate` guards it, inverted when `negated`; None: it is not guarded."""

    opcode: str
    operands: tuple[Operand, ...]
    predicate: str | None
    negated: bool
    text: str


@dataclass
class Entry:
    """One kernel. registers: type by name ("pred", "b16", "b32", "b64"); labels: position in `code` by name."""

    name: str
    parameters: dict[str, int]  # bytes by name
    threads: int  # largest block, by .maxntid
    shared: str | None  # symbol of the dynamic shared memory
    registers: dict[str, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_ENTRY = re.compile(r"\.entry\s+(?P<name>[$\w]+)\s*\((?P<parameters>[^)]*)\)(?P<limits>[^{]*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(?P<type>[busf]\d+)\s+(?P<name>[$\w]+)(?:\[(?P<count>\d+)\])?"
)
_SHARED = re.compile(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+(?P<name>[$\w]+)\[\]")
_TOKEN = re.compile(
    r"\s*(?:(?P<open>\{)|(?P<close>\})|(?P<label>[$\w]+):(?!:)|(?P<statement>[^\s;{}][^;]*);)", re.S
)
_REGISTERS = re.compile(r"\.reg\s+\.(?P<type>pred|[busf](?:16|32|64))\s+(?P<names>.*)", re.S)
_FAMILY = re.compile(r"(?P<stem>%\w+)<(?P<count>\d+)>")
_INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)(?P<predicate>%\w+)\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>.*)", re.S
)
_OPERAND = re.compile(r"\s*(?:\{(?P<vector>[^}]*)\}|(?P<single>[^,{}]+?))\s*(?:,|$)")
_IGNORED = re.compile(r"\.(?:loc|pragma)\b")  # line numbers and hints to the assembler


def entry_names(text: str) -> list[str]:
    """Names of a module's kernels."""
    return [match["name"] for match in _ENTRY.finditer(_COMMENT.sub("", text))]


def parse_entry(text: str, name: str) -> Entry:
    """Parse the kernel `name` of a module."""
    source = _COMMENT.sub("", text)
    header = next((m for m in _ENTRY.finditer(source) if m["name"] == name), None)
    if header is None:
        raise PtxFault(f"there is no entry {name}")
    threads = re.search(r"\.maxntid\s+(\d+)", header["limits"])
    if threads is None:
        raise PtxFault(f"{name} does not say how many threads it has")
    shared = _SHARED.search(source)
    parameters = {
        m["name"]: int(m["type"][1:]) // 8 * int(m["count"] or 1)
        for m in _PARAMETER.finditer(header["parameters"])
    }
    entry = Entry(name, parameters, int(threads[1]), shared["name"] if shared else None)
    _Body(entry).read(source, header.end())
    return entry


class _Body:
    """Reads statements. A register of an inner scope gets a unique name, since each inline asm declares %p1 anew."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.scopes: list[dict[str, str]] = [{}]
        self.opened = 0

    def read(self, source: str, position: int) -> None:
        while self.scopes:
            token = _TOKEN.match(source, position)
            if token is None:
                raise PtxFault(f"no statement at: {source[position : position + 80]!r}")
            position = token.end()
            if token["open"]:
                self.scopes.append({})
                self.opened += 1
            elif token["close"]:
                self.scopes.pop()
            elif token["label"]:
                self.entry.labels[token["label"]] = len(self.entry.code)
            else:
                self.statement(token["statement"].strip())

    def statement(self, text: str) -> None:
        if _IGNORED.match(text):
            return
        registers = _REGISTERS.fullmatch(text)
        if registers:
            self.declare(registers["type"], registers["names"])
        elif text.startswith("."):
            raise PtxFault(f"unknown directive: {text}")
        else:
            self.entry.code.append(self.instruction(text))

    def declare(self, kind: str, names: str) -> None:
        suffix = f"@{self.opened}" if len(self.scopes) > 1 else ""
        width = kind if kind == "pred" else f"b{kind[1:]}"
        for item in names.split(","):
            family = _FAMILY.fullmatch(item.strip())
            members = (
                [f"{family['stem']}{i}" for i in range(int(family["count"]))] if family else [item.strip()]
            )
            for name in members:
                self.scopes[-1][name] = name + suffix
                self.entry.registers[name + suffix] = width

    def resolve(self, name: str) -> str:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), name)

    def instruction(self, text: str) -> Instruction:
        match = _INSTRUCTION.fullmatch(text)
        if match is None:
            raise PtxFault(f"not an instruction: {text}")
        operands, position = list[Operand](), 0
        while position < len(match["operands"]):
            operand = _OPERAND.match(match["operands"], position)
            if operand is None:
                raise PtxFault(f"unknown operands: {text}")
            position = operand.end()
            if operand["vector"] is None:
                operands.append(self.names(operand["single"]))
            else:
                operands.append(tuple(self.names(name.strip()) for name in operand["vector"].split(",")))
        predicate = match["predicate"] and self.resolve(match["predicate"])
        return Instruction(match["opcode"], tuple(operands), predicate, match["negated"] == "!", text)

    def names(self, operand: str) -> str:
        """The operand with its registers resolved."""
        return re.sub(r"%[\w]+(?:\.\w+)?", lambda m: self.resolve(m[0]), operand)
