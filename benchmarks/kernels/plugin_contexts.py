"""Plugins as TensorRT holds them: the plugin of an engine, and the plugins of contexts, which have a stream and device
memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import check
import numpy as np
import torch
from cuda_calls import Cuda
from hybrid import ACTIVATIONS, DENSE_PATH, DTYPES, Epilogue
from kernels import Config
from numpy.typing import NDArray
from plugin_driver import DENSE_PATH_TACTIC, Linear, PluginDriver, Tensors


class Asked(NamedTuple):
    """A linear to drive. turn: number of its epilogue, as in check.py."""

    name: str
    panel_rows: int
    dtype: torch.dtype
    shape: tuple[int, int]
    gated: bool = False
    kinds: int = 2
    weights: int = 0
    turn: int = 0


class Wrong(RuntimeError):
    """A result or an answer of the plugin is wrong."""


class Given(NamedTuple):
    """The inputs of a call besides the weight."""

    x: torch.Tensor
    epilogue: Epilogue


class Engine:
    """A packed linear, its plugin as an engine holds it, and the float64 answer."""

    def __init__(self, driver: PluginDriver, asked: Asked, tactic: int, most: int) -> None:
        self.driver, self.asked, self.dense = driver, asked, tactic == DENSE_PATH_TACTIC
        about = Config(asked.name, asked.panel_rows, 0, 0, asked.kinds, asked.weights)
        kernels = check.Case(0, about, asked.dtype, asked.shape, 0.6, asked.gated)
        rng = np.random.default_rng(7)
        halves, codes = check.random_weights(rng, kernels)
        # The dense path rounds weights of int8 before it multiplies them.
        self._weights = {}
        for dense, case in ((False, kernels), (True, kernels._replace(config=DENSE_PATH))):
            given = halves, codes, case, np.random.default_rng(7)
            self.packed, self._weights[dense] = check.packed_weights(*given)
        self._case = kernels
        self._takes: dict[int, bool] = {}
        linear = self.linear(self.given(most))
        self.plugin = self._configured(linear)
        succeeds("setTactic", driver.set_tactic(self.plugin, tactic))
        self.workspace = driver.workspace(self.plugin, linear)

    def _configured(self, linear: Linear) -> ctypes.c_void_p:
        plugin = self.driver.new(linear)
        succeeds("configurePlugin", self.driver.configure(plugin, linear))
        return plugin

    def takes_dense_path(self, tokens: int) -> bool:
        """Return True if the dense path's tactic takes it for so many tokens: only then a builder is offered the tactic."""
        if tokens not in self._takes:
            plugin = self._configured(self.linear(self.given(tokens)))
            self._takes[tokens] = DENSE_PATH_TACTIC in self.driver.tactics(plugin)
            self.driver.delete(plugin)
        return self._takes[tokens]

    def runs_dense_path(self, tokens: int) -> bool:
        return self.dense and self.takes_dense_path(tokens)

    def given(self, tokens: int, seed: int = 0) -> Given:
        """Return random inputs."""
        torch.manual_seed(seed)
        x = torch.randn(tokens, self.asked.shape[1]).to(self.asked.dtype)
        return Given(x, check.epilogue_of_turn(self._case, x, self.asked.turn))

    def linear(self, given: Given) -> Linear:
        """Return the linear in the form that the plugin takes."""
        epilogue = given.epilogue
        return Linear.of_packed(
            self.packed, DTYPES.index(self.asked.dtype), len(given.x), bias=epilogue.bias is not None,
            residual=epilogue.residual is not None, activation=ACTIVATIONS.index(epilogue.activation),
        )  # fmt: skip

    def arrays(self, given: Given) -> dict[str, NDArray[Any]]:
        """Return the inputs' bits, by the names of the plugin's tensors."""
        tensors = check.tensors_of(self.packed, self.packed.index, "cpu")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if name != "index"}
        optional = {"bias": given.epilogue.bias, "residual": given.epilogue.residual}
        return arrays | {name: _bits(t) for name, t in {"x": given.x, **optional}.items() if t is not None}

    def error(self, given: Given, y: NDArray[np.int16]) -> float:
        """Return the largest error in units of the allowed error."""
        dense = self.runs_dense_path(len(given.x))
        rounded = dense and bool(self.asked.gated or given.epilogue.activation)
        got = torch.from_numpy(y).view(self.asked.dtype)
        return check.share_of_allowed_error(got, given.x, self._weights[dense], given.epilogue, rounded)


class Context:
    """A plugin that is attached to a context, with a stream and the device memory of its tensors."""

    def __init__(self, engine: Engine, cuda: Cuda, stream: int) -> None:
        self._engine, self._cuda, self.stream, self._driver = engine, cuda, stream, engine.driver
        self.plugin = self._driver.attach(engine.plugin)
        succeeds("attachToContext", not self.plugin)
        self._sizes: dict[int, int] = {}

    def place(self, given: Given) -> None:
        """Put the tensors of a call into new memory, and NaNs into the memory of before, which is given back."""
        before, self._sizes = self._sizes, {}
        self.given, engine = given, self._engine
        arrays = engine.arrays(given)
        self._y = np.empty((len(given.x), engine.asked.shape[0]), np.int16)
        sizes = {name: array.nbytes for name, array in arrays.items()} | {
            "y": self._y.nbytes, "workspace": engine.workspace
        }  # fmt: skip
        self._at = {name: self._cuda.allocate(size) for name, size in sizes.items() if size}
        self._sizes = {self._at[name]: size for name, size in sizes.items() if size}
        for name, array in arrays.items():
            if array.nbytes:
                self._cuda.upload(array, self._at[name], self.stream)
        self._give_back(before)

    def _give_back(self, memory: dict[int, int]) -> None:
        for address, size in memory.items():
            self._cuda.fill(address, size, self.stream)
        self._cuda.wait(self.stream)
        for address in memory:
            self._cuda.free(address)

    def change_x(self, given: Given) -> None:
        """Overwrite X where it lies."""
        self.given = given._replace(epilogue=self.given.epilogue)
        self._cuda.upload(_bits(given.x), self._at["x"], self.stream)

    def shapes(self) -> None:
        succeeds("onShapeChange", self._driver.shapes(self.plugin, self._engine.linear(self.given)))

    def enqueue(self) -> None:
        linear, tensors = self._engine.linear(self.given), Tensors.at(self._at)
        succeeds("enqueue", self._driver.launch(self.plugin, linear, tensors, self.stream))

    def forget(self) -> None:
        """Fill Y with NaNs."""
        self._cuda.fill(self._at["y"], self._y.nbytes, self.stream)

    def answer(self) -> NDArray[np.int16]:
        """Wait for the stream and return Y's bits."""
        self._cuda.download(self._at["y"], self._y, self.stream)
        return self._y.copy()

    def error(self) -> float:
        return self._engine.error(self.given, self.answer())

    def detach(self) -> None:
        """End the context's plugin."""
        self._driver.delete(self.plugin)

    def close(self) -> None:
        self._give_back(self._sizes)
        self.detach()


@contextmanager
def open_context(engine: Engine, cuda: Cuda) -> Iterator[Context]:
    """Lend a context with a stream of its own. After an error nothing is freed: the CUDA context may be unusable."""
    with cuda.stream() as stream:
        context = Context(engine, cuda, stream)
        yield context
        context.close()


def _bits(tensor: torch.Tensor) -> NDArray[np.int16]:
    return tensor.view(torch.int16).numpy()


def succeeds(name: str, code: object) -> None:
    if code:
        raise Wrong(f"{name} failed, the plugin's log says why")
