"""Runs graphs of TensorRT Edge-LLM's layout on ONNX Runtime, with a reference of its AttentionPlugin in numpy.

The graph has one input of ragged tokens: the rows of all sequences, one sequence below the other, each padded to the longest
(`query_start_offsets` counts the padding, `query_lengths` does not). Keys and values lie in one pool of pages of 128 tokens
for each layer, `[2, pages, 128, heads, head_dim]`; `kv_page_table [sequences, 2, pages]` holds the pages of a sequence;
the numbers of value pages continue after the key pages. Edge-LLM 0.11 documents this in its
exporter and checks it in its own tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

PAGE = 128  # tokens
_DOMAIN, _OP_TYPE = "trt_edgellm", "AttentionPlugin"
Feed = dict[str, NDArray[Any]]


def attention(
    qkv: NDArray[np.float32], pool: NDArray[Any], feed: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
) -> NDArray[np.float32]:
    """The AttentionPlugin. qkv: [tokens, (q heads + 2 · kv heads) · head_dim]; pool: changed in place; facts: attributes.

    Returns [tokens, q heads, head_dim]; rows of padding are 0.
    """
    heads, kv_heads, dim = facts["num_q_heads"], facts["num_kv_heads"], facts["head_size"]
    whole = qkv.reshape(len(qkv), heads + 2 * kv_heads, dim)
    flat = pool.reshape(-1, *pool.shape[2:])  # pages of keys, then pages of values
    out = np.zeros((len(qkv), heads, dim), np.float32)
    for sequence, length in enumerate(feed["query_lengths"]):
        first, past = feed["query_start_offsets"][sequence], int(feed["past_lengths"][sequence])
        rows = slice(first, first + length)
        assert feed["attention_sequence_lengths"][sequence] == past + length
        rope = feed["rope_rotary_cos_sin"][rows]
        q, k, v = np.split(whole[rows], [heads, heads + kv_heads], axis=1)
        q, k = _rotated(q, rope), _rotated(k, rope)
        pages = feed["kv_page_table"][sequence]
        for place, new in zip(pages, (k, v), strict=True):
            for offset, row in enumerate(new):
                page, at = divmod(past + offset, PAGE)
                flat[place[page], at] = row
        length_of_all = past + int(length)
        keys, values = (
            np.concatenate([flat[page] for page in place])[:length_of_all].astype(np.float32)
            for place in pages
        )
        keys, values = (np.repeat(one, heads // kv_heads, axis=1) for one in (keys, values))
        scores = np.einsum("qhd,khd->hqk", q, keys) * facts["attention_scale"]
        later = np.arange(length_of_all)[None] > past + np.arange(length)[:, None]
        scores = np.where(later[None], -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[rows] = np.einsum("hqk,khd->qhd", weights, values)
    return out


def _rotated(x: NDArray[np.float32], cos_sin: NDArray[np.float32]) -> NDArray[np.float32]:
    """x: [tokens, heads, dim]; cos_sin: [tokens, rotary_dim], the cosines and then the sines."""
    cos, sin = (half[:, None] for half in np.split(cos_sin, 2, axis=1))
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


class PagedModel:
    """A graph of Edge-LLM whose AttentionPlugins are run here, between the parts that ONNX Runtime runs."""

    def __init__(self, path: Path, embedding: NDArray[Any], config: Mapping[str, Any], capacity: int) -> None:
        """capacity: most tokens of one sequence."""
        self._embedding, self._config = embedding, config
        proto = onnx.load(path, load_external_data=False)
        self._plugins = [
            node for node in proto.graph.node if (node.domain, node.op_type) == (_DOMAIN, _OP_TYPE)
        ]
        self._facts = [
            {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            for node in self._plugins
        ]
        _cut(proto, self._plugins)
        cut = path.with_name("without_attention.onnx")
        onnx.save_model(proto, cut)
        self._session = onnxruntime.InferenceSession(cut, providers=["CPUExecutionProvider"])
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._pages = -(-capacity // PAGE)
        self._pools: list[NDArray[Any]] = []
        self._lengths: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Returns the logits `[sequences, vocabulary]` after the prompts."""
        heads, dim = self._config["num_key_value_heads"], self._config["head_dim"]
        shape = (2, len(prompts) * self._pages, PAGE, heads, dim)
        self._pools = [np.zeros(shape, np.float16) for _ in self._plugins]
        self._lengths = [0] * len(prompts)
        return self.go_on(prompts)

    def go_on(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Returns the logits after further tokens of each sequence."""
        feed = self._feed(tokens)
        options = onnxruntime.RunOptions()
        # Only the nodes before the asked output are run: what follows waits for the attention.
        options.only_execute_path_to_fetches = True
        for node, pool, facts in zip(self._plugins, self._pools, self._facts, strict=True):
            given = self._whole(feed)
            (qkv,) = self._session.run([node.input[0]], given, options)
            feed[node.output[0]] = attention(qkv.astype(np.float32), pool, feed, facts).astype(np.float16)
        self._lengths = [past + len(one) for past, one in zip(self._lengths, tokens, strict=True)]
        (logits,) = self._session.run(["logits"], self._whole(feed))
        return np.asarray(logits, np.float32)

    def _whole(self, feed: Feed) -> Feed:
        """Returns the feed, with zeros for the attentions that are still to be computed."""
        rows, facts = len(feed["inputs_embeds"]), self._facts[0]
        empty = np.zeros((rows, facts["num_q_heads"], facts["head_size"]), np.float16)
        later = {node.output[0]: empty for node in self._plugins}
        return {name: value for name, value in (later | feed).items() if name in self._inputs}

    def _feed(self, tokens: Sequence[Sequence[int]]) -> Feed:
        count, width = len(tokens), max(map(len, tokens))
        lengths, past = np.array([len(one) for one in tokens]), np.array(self._lengths)
        ids = np.zeros((count, width), np.int64)
        positions = np.full((count, width), -1, np.int32)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            positions[row, : len(one)] = past[row] + np.arange(len(one))
        pages = np.arange(count * self._pages, dtype=np.int32).reshape(count, self._pages)
        starts = np.arange(count + 1) * width
        return {
            "inputs_embeds": self._embedding[ids.ravel()],
            "rope_rotary_cos_sin": self._rope(np.maximum(positions.ravel(), 0)),
            "positions": positions.ravel(),
            "query_start_offsets": starts.astype(np.int32),
            "query_lengths": lengths.astype(np.int32),
            "past_lengths": past.astype(np.int32),
            "attention_sequence_lengths": (past + lengths).astype(np.int32),
            "state_indices": np.arange(count, dtype=np.int32),
            "execution_phase_marker": np.zeros(1, np.int32),
            "context_sequence_count_carrier": np.zeros(count if width > 1 else 0, np.int32),
            "kv_page_table": np.stack([pages, pages + count * self._pages], axis=1),
            "logits_indices": starts[:-1] + lengths - 1,
        }

    def _rope(self, positions: NDArray[np.int32]) -> NDArray[np.float32]:
        dim = self._config["head_dim"]
        frequencies = self._config["rope_theta"] ** -(np.arange(0, dim, 2) / dim)
        angles = positions[:, None] * frequencies
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _cut(proto: onnx.ModelProto, plugins: Sequence[onnx.NodeProto]) -> None:
    """Make the plugins' inputs outputs of the graph, and their outputs inputs."""
    graph, half = proto.graph, onnx.TensorProto.FLOAT16
    gone = {name for node in plugins for name in node.output[1:]}
    for number, node in enumerate(plugins):
        graph.node.remove(node)
        # Symbolic dimensions must differ from dimensions of other inputs, which have more or fewer rows in parts of the run.
        shape = [f"rows_{number}", None, None]
        graph.input.append(helper.make_tensor_value_info(node.output[0], half, shape))
        graph.output.append(helper.make_tensor_value_info(node.input[0], half, [f"rows_{number}", None]))
    outputs = [value for value in graph.output if value.name not in gone]
    del graph.output[:]
    graph.output.extend(outputs)
    read = {name for node in graph.node for name in node.input}
    inputs = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(inputs)
    shown = {name for node in plugins for name in (node.input[0], *node.output)}
    kept = [value for value in graph.value_info if value.name not in shown]
    del graph.value_info[:]
    graph.value_info.extend(kept)
