# syntax=docker/dockerfile:1
# The Hugging Face worker with CUDA: torch's Linux wheels bring the CUDA libraries themselves, the
# host gives the driver (NVIDIA Container Toolkit). No model is built in: mount a folder at /models.
#   docker build -f deploy/docker/worker.Dockerfile -t earlyfire-worker .
#   docker run --rm --init --gpus all -p 127.0.0.1:8100:8100 -v "$HOME/.cache/huggingface:/models" \
#     -e EARLYFIRE_WORKER_KEY earlyfire-worker
FROM python:3.12-slim-bookworm AS build
# Another build of torch: --build-arg TORCH="--index-url https://download.pytorch.org/whl/cu126 torch"
ARG TORCH="torch>=2.6"
# For --four-bit: --build-arg MORE=bitsandbytes
ARG MORE=""
RUN python -m venv /opt/earlyfire
WORKDIR /src
# torch in a layer of its own: gigabytes that no change of ours brings again. TORCH may be several
# words, so it is split on purpose.
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    set -f; /opt/earlyfire/bin/pip install --disable-pip-version-check ${TORCH} ${MORE}
COPY pyproject.toml README.md ./
COPY earlyfire_stream earlyfire_stream
COPY scenarios scenarios
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/earlyfire/bin/pip install --disable-pip-version-check '.[hf]'

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="earlyfire-worker" \
      org.opencontainers.image.description="Qwen-VL over HTTP for earlyfire-stream"
RUN groupadd --gid 10001 earlyfire \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin earlyfire \
    && install -d -o 10001 -g 10001 /data /models
COPY --from=build /opt/earlyfire /opt/earlyfire
COPY --chmod=0755 deploy/docker/entrypoint.sh /usr/local/bin/entrypoint
COPY --chmod=0644 deploy/docker/healthy.py /usr/local/lib/earlyfire/healthy.py
ENV PATH=/opt/earlyfire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    EARLYFIRE_HEALTH_URL=http://127.0.0.1:8100/health
USER 10001:10001
WORKDIR /data
VOLUME /models
EXPOSE 8100
# It listens before the model is loaded: /health says that it lives, /ready that it answers.
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=4 \
    CMD ["python", "/usr/local/lib/earlyfire/healthy.py"]
ENTRYPOINT ["/usr/local/bin/entrypoint", "earlyfire", "worker", "--host", "0.0.0.0", "--port", "8100"]
CMD ["--model", "Qwen/Qwen2.5-VL-7B-Instruct"]
