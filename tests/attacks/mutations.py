"""Seeded changes of inputs, by format, so that fields change and not check sums or lengths."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import yaml

from tests.attacks.values import VALUES, dump, safetensors_of, safetensors_parts

Mutation = Callable[[bytes, Random], bytes]
_HOSTILE: tuple[Any, ...] = (
    *(value for name, value in VALUES.items() if name != "long text"),
    False, 1, 3, 4, 64, 2**31, 2**31 - 1, -(2**31), 2**63 - 1, 2**64, 10**30, -0.0, 1e-320, "a", "1e999", "é\U0001f600",
    "x" * 300, [[]], [0], [-1, 4], {"a": {}},
)  # fmt: skip
_BYTES = (
    b"", b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3(", b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"-", b"1e999",
    b"NaN", b'"', b"\n", b"\r", b"\\u0000", struct.pack("<Q", 2**63), struct.pack("<i", -1), b"%s", b"\xf4\x8f\xbf\xbf",
)  # fmt: skip
_WORDS = (
    "=", ",", ":", "x", "*", "re:", "(", ")*", "[", "\\",
    "0", "-1", "0.5", "1e309", "nan", "inf", "²", "٣", "128x128", "sm86",
    " ", "\0", "\n", "auto", "dense", "9" * 5000, "?", "..", "é", "none", "all", "1_0",
    "0x10", "+4", "a100", "[!", "(?i)", "|",
)  # fmt: skip
# Texts in a model, and names of operators.
_TEXTS = (
    "", "x", "W", "../x", "/etc/passwd", "data.bin", "?", "-1", "MatMul", "Gemm", "Loop", "patch", "é", "\0",
)  # fmt: skip
_MOST = 1 << 16  # bytes of a refitted data section


def change_bytes(data: bytes, rng: Random) -> bytes:
    """Flip, cut, repeat or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 2, 4, 8, 32)))
        match rng.randrange(6):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:end]
            case 2:
                changed[at:at] = changed[at:end]
            case 3:
                changed[at:at] = rng.choice(_BYTES)
            case 4:
                changed[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
            case _:
                del changed[at : None if rng.random() < 0.3 else at + 1]
    return bytes(changed)


def _or_bytes(structured: Mutation) -> Mutation:
    """A change of the structure, or of any bytes where the input has none, and now and then anyway."""

    def change(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.2:
            return change_bytes(data, rng)
        try:
            return structured(data, rng)
        except Exception:
            return change_bytes(data, rng)

    return change


@_or_bytes
def change_json(data: bytes, rng: Random) -> bytes:
    """Change some values, keys or items of a JSON text."""
    return dump(_changed(json.loads(data), rng)).encode()


@_or_bytes
def change_yaml(data: bytes, rng: Random) -> bytes:
    """Change some values, keys or items of a YAML text."""
    return yaml.safe_dump(_changed(yaml.safe_load(data), rng)).encode()


@_or_bytes
def change_json_lines(data: bytes, rng: Random) -> bytes:
    """Change a line of JSON, or the lines' order and number."""
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines.insert(at, rng.choice(lines))
        case 1:
            lines.pop(at)
        case _:
            lines[at] = dump(_changed(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines)


@_or_bytes
def change_words(data: bytes, rng: Random) -> bytes:
    """Change the words and signs of a line."""
    words = re.findall(r"\w+|\W", data.decode())
    for _ in range(rng.choice((1, 2, 3))):
        at = rng.randrange(len(words) + 1)
        match rng.randrange(4):
            case 0:
                words[at : at + 1] = []
            case 1:
                words[at:at] = words[at : at + rng.choice((1, 2, 4))]
            case 2:
                words[at:at] = [rng.choice(_WORDS)]
            case _:
                words[at : at + 1] = [rng.choice(_WORDS)]
    return "".join(words).encode()


@_or_bytes
def change_safetensors(data: bytes, rng: Random) -> bytes:
    """Change the header, with a length that fits it, and often with data that fit it as well."""
    header, body = safetensors_parts(data)
    if rng.random() < 0.3:
        body = change_bytes(body, rng)[: len(body)].ljust(len(body), b"\0")
    else:
        header = _changed(header, rng)
    if rng.random() < 0.7:
        body = _refitted(header, body)
    return safetensors_of(header, body)


def _refitted(header: dict[str, Any], body: bytes) -> bytes:
    """Give every tensor the offsets that its type and shape take."""
    bits, at = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16}, 0
    for name, fields in header.items():
        if name != "__metadata__":
            if not all(isinstance(side, int) for side in fields["shape"]):
                raise ValueError("a shape of texts")  # a text times a number is a text of gigabytes
            size = math.prod(fields["shape"]) * bits.get(fields["dtype"], 8) // 8
            fields["data_offsets"], at = [at, at + size], at + size
    if not 0 <= at <= _MOST:
        raise ValueError("too large a file")
    return body[:at].ljust(at, b"\0")


@_or_bytes
def change_npz(data: bytes, rng: Random) -> bytes:
    """Change the members of an archive of arrays, their names and their headers; check sums fit."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(6):
        case 0:
            members.append((rng.choice((name, "x.npy", "x", "../x.npy", "\0.npy", f"{name}.npy")), content))
        case 1:
            members.pop(at)
        case 2:
            members[at] = (name.replace(rng.choice(name), rng.choice("._/x\0"), 1), content)
        case 3:
            members[at] = (name, _npy_with_other_header(content, rng))
        case 4:
            members[at] = (name, _other_npy(rng))
        case _:
            members[at] = (name, change_bytes(content, rng))
    written = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(written, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive,
    ):
        for member, content in members:
            archive.writestr(zipfile.ZipInfo(member), content)
    return written.getvalue()


def _npy_with_other_header(content: bytes, rng: Random) -> bytes:
    length = struct.unpack("<H", content[8:10])[0]
    header = change_words(content[10 : 10 + length], rng)[: 2**16 - 1]
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :]


def _other_npy(rng: Random) -> bytes:
    shape = tuple(rng.choice((0, 1, 2, 3, 8, 64)) for _ in range(rng.randrange(4)))
    dtype = rng.choice(("u1", "i8", "f2", "f4", "f8", "?", "U3", "S2", "c8", "M8[s]", "V4", "f4,i2", "O"))
    written = io.BytesIO()
    np.save(written, np.zeros(shape, dtype), allow_pickle=True)
    return written.getvalue()


@_or_bytes
def change_onnx(data: bytes, rng: Random) -> bytes:
    """Change some fields of an ONNX model's messages."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        message = rng.choice(list(_messages(model)))
        field = rng.choice(message.DESCRIPTOR.fields)
        if field.is_repeated:
            _change_repeated(getattr(message, field.name), field, rng)
        elif field.message_type is not None:
            if rng.random() < 0.5:
                message.ClearField(field.name)
            else:
                getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, _scalar(field, rng))
    return bytes(model.SerializeToString())


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _change_repeated(values: Any, field: Any, rng: Random) -> None:
    kept = list(values)
    match rng.randrange(4):
        case 0 if kept:
            del values[rng.randrange(len(kept))]
        case 1 if kept:
            values.extend([copy.deepcopy(rng.choice(kept))])
        case 2:
            new = field.message_type._concrete_class() if field.message_type else _scalar(field, rng)
            values.extend([new])
        case _:
            rng.shuffle(kept)
            kept = [copy.deepcopy(one) for one in kept]
            del values[:]
            values.extend(kept)


def _scalar(field: Any, rng: Random) -> Any:
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, math.nan, math.inf, -1e30))
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(_TEXTS)
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) and rng.random() < 0.3:
        return 2**63 - 1
    value = rng.choice((0, 1, -1, 2, 3, 16, 24, 64, 2**31 - 1, -(2**31)))
    return abs(value) if field.cpp_type in (field.CPPTYPE_UINT64, field.CPPTYPE_UINT32) else value


def _changed(value: Any, rng: Random) -> Any:
    """Change one to three places of a tree of mappings and lists. JSON texts are parts of the tree."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed_once(value, rng)
    return value


def _changed_once(value: Any, rng: Random) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.8:
        return json.dumps(_changed_once(json.loads(value), rng))
    keys = list(value) if isinstance(value, dict) else []
    keys = list(range(len(value))) if isinstance(value, list) else keys
    if not keys or rng.random() < 0.08:
        return _other(value, rng)
    key = rng.choice(keys)
    match rng.randrange(12):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[rng.choice(("", "x", "schema", "__metadata__", f"{key}x", "a.b", "../y"))] = value.pop(key)
        case 2 if isinstance(value, list):
            value.insert(key, copy.deepcopy(rng.choice(value)))
        case 3:
            value[key] = copy.deepcopy(value[rng.choice(keys)])
        case _:
            value[key] = _changed_once(value[key], rng)
    return value


def _other(value: Any, rng: Random) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((lambda v: v + 1, lambda v: -v, lambda v: v * 2, float))(value)
    if isinstance(value, str) and value and rng.random() < 0.4:
        return change_words(value.encode(), rng).decode(errors="replace")
    return copy.deepcopy(rng.choice(_HOSTILE))
