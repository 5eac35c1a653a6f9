"""engine.json: the description of an engine that its build writes."""

from __future__ import annotations

from typing import ClassVar

from patch_compile.artifacts.bench import Library
from patch_compile.artifacts.layout import ENGINE_REPORT
from patch_compile.artifacts.record import FileRecord, Record, Seconds


class SparseTactics(Record):
    """Counts of layers with weights that TensorRT found to be 2:4, and that run 2:4, None if it logged neither."""

    eligible: int | None
    chosen: int | None


class PluginHeaders(Record):
    """TensorRT's headers that a plugin was compiled with.

    package, sha256: the pinned package of a third party that they were downloaded from, None for headers of an installed
    TensorRT, which are in `folder`. For a plugin that came compiled in patch-compile-plugin, only the version is set.
    """

    version: str
    folder: str | None = None
    package: str | None = None
    sha256: str | None = None


class EngineDetails(Record):
    """Description of a built engine, with the bytes of its file and of its packed tensors.

    version: version of the library that built it. patch_linears: number of PatchLinear nodes; sparse_parts: number of
    2:4 GEMMs of split linears; sparse_tactics: TensorRT's choices for them and for other 2:4 weights, None without
    such weights and for a library without such tactics. plugin_version, plugin_sha256: version and content of the plugin
    that it was built with, None without a plugin; plugin_embedded: True if the engine contains it; plugin_headers: None if
    they are unknown. The two fields that follow come from `EngineOptions`.
    """

    backend: Library
    version: str
    targets: tuple[str, ...]
    profiles: tuple[str, ...]
    dtype: str | None
    patch_linears: int
    bytes: int
    packed_bytes: int
    sparse_parts: int
    sparse_tactics: SparseTactics | None
    seconds: Seconds
    plugin_version: int | None = None
    plugin_sha256: str | None = None
    plugin_embedded: bool = False
    plugin_headers: PluginHeaders | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


class EngineReport(FileRecord, EngineDetails):
    """engine.json.

    file, plugin: names of the engine and the plugin library in its folder; plugin: None without a plugin; kernels: groups
    of the plugin's kernels that the engine runs, empty if they are unknown.
    """

    SCHEMA: ClassVar[int] = 2
    WHAT: ClassVar[str] = "the description of an engine"
    PLACE: ClassVar[str] = ENGINE_REPORT

    file: str
    plugin: str | None
    kernels: tuple[str, ...] = ()

    @property
    def details(self) -> EngineDetails:
        return EngineDetails(**{name: getattr(self, name) for name in EngineDetails.model_fields})


class BuiltEngine(EngineDetails):
    """The engine of a build, in its report. path: path of the engine."""

    path: str
