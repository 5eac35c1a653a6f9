# Images that compile models on any machine, and that run and serve builds on a GPU or, slowly, on a CPU with ONNX Runtime.
#
#   docker build --target builder -t patch-compile:builder .   runs `make` targets and `patch-compile build`
#   docker build -t patch-compile .                            runs and serves, without torch
#   docker run --gpus all -p 8000:8000 -v "$PWD/out/smollm2:/model:ro" patch-compile
#   docker run --gpus all -v "$PWD/out/smollm2:/model:ro" patch-compile patch-compile run /model "The capital of France"
#
# BACKEND is the backend that built OUT's engine: rtx (TensorRT-RTX) or tensorrt (full TensorRT). FLAVOUR=runtime adds
# cuBLAS, with which engines of full TensorRT multiply long prompts: on Hopper, and everywhere for n:16 tiles and integers.
# Base images are pinned by digest, and Python packages of the image by hash, except TensorRT's (packaging/make-venv.sh); apt
# checks Ubuntu's signatures.
ARG FLAVOUR=base

FROM nvidia/cuda:13.0.2-base-ubuntu24.04@sha256:2ab6381d970b211fb93853796dc6707eb8a72575a375c422b17cf4d8b2641701 AS cuda-base

FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04@sha256:6a0e31b59e70890446f2c17356d6efc0d54260090a8c63d6ca7c2ad049db95d2 AS cuda-runtime

FROM nvidia/cuda:13.0.2-devel-ubuntu24.04@sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6 AS builder
COPY packaging /opt/packaging
RUN --mount=type=cache,sharing=locked,target=/var/cache/apt --mount=type=cache,sharing=locked,target=/var/lib/apt/lists \
    /opt/packaging/install-apt.sh /opt/packaging/builder.apt
ENV PATH=/src/.venv/bin:$PATH
# 1000 is the user `ubuntu` of the base image. Without this, the cache mount below would create .cache with the owner root.
RUN /opt/packaging/make-folders.sh 1000 /src /opt/wheels /opt/patch-compile /home/ubuntu/.cache
COPY --chown=1000:1000 . /src
WORKDIR /src
USER 1000:1000
ENV HOME=/home/ubuntu
# Installs all packages into .venv, downloads TensorRT's headers, and compiles the plugin into the cache, where `build` finds it.
RUN --mount=type=cache,uid=1000,gid=1000,target=/home/ubuntu/.cache/pip \
    make plugin
CMD ["bash"]

FROM builder AS packages
ARG BACKEND=rtx
RUN packaging/build-wheel.sh /opt/wheels
RUN --mount=type=cache,uid=1000,gid=1000,target=/home/ubuntu/.cache/pip \
    packaging/make-venv.sh /opt/patch-compile /opt/wheels/*.whl serve "${BACKEND}"

# hadolint ignore=DL3006
FROM cuda-${FLAVOUR} AS runtime
COPY packaging/install-apt.sh packaging/runtime.apt packaging/healthcheck.sh /opt/app/packaging/
RUN --mount=type=cache,sharing=locked,target=/var/cache/apt --mount=type=cache,sharing=locked,target=/var/lib/apt/lists \
    /opt/app/packaging/install-apt.sh /opt/app/packaging/runtime.apt
COPY --from=packages /opt/patch-compile /opt/patch-compile
COPY samples/__init__.py /opt/app/samples/
COPY samples/serve_http /opt/app/samples/serve_http
ENV PATH=/opt/app/samples/serve_http:/opt/patch-compile/bin:$PATH HOME=/home/ubuntu HF_HUB_OFFLINE=1
USER 1000:1000
WORKDIR /home/ubuntu
EXPOSE 8000
HEALTHCHECK --start-period=5m CMD ["/opt/app/packaging/healthcheck.sh", "http://127.0.0.1:8000/health"]
CMD ["serve.sh", "/model", "--host", "0.0.0.0", "--port", "8000"]
