# Two stages: install into a virtual environment, then copy it. TORCH is a pip requirement; where its default build has
# another CUDA than the driver knows, PIP_INDEX_URL or PIP_EXTRA_INDEX_URL names the index that has the right one.
FROM python:3.11-slim AS build
ARG TORCH="torch==2.13.0"
ARG PIP_FIND_LINKS=""
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/virtualmle
ENV PATH=/opt/virtualmle/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
# The dependencies first, so that a change of our code does not download torch again.
RUN PIP_FIND_LINKS="$PIP_FIND_LINKS" pip install "$TORCH" numpy && \
    python3 -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml','rb'))['project']['dependencies']))" > requirements.txt && \
    PIP_FIND_LINKS="$PIP_FIND_LINKS" pip install -r requirements.txt "$TORCH"
# pip compiles the bytecode of what it installs, so the image starts without writing any.
COPY prompts prompts
COPY memory memory
COPY trainers trainers
COPY server server
RUN PIP_FIND_LINKS="$PIP_FIND_LINKS" pip install ".[search,llm,plot]" "$TORCH"
# The trainers' kernels, so that the image needs no compiler; where there is none to be had, plain torch computes.
RUN if ! command -v g++ >/dev/null; then apt-get update && apt-get install -y --no-install-recommends g++ || true; fi; \
    cd / && python3 -m trainers kernels || true

FROM python:3.11-slim
RUN if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then \
      apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*; fi && \
    useradd --create-home --uid 10001 virtualmle && install -d -o virtualmle -g virtualmle -m 0700 /data
COPY --from=build /opt/virtualmle /opt/virtualmle
ENV PATH=/opt/virtualmle/bin:$PATH VIRTUALMLE_HOME=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# What an inventory of images asks for; the packages are those that pip has recorded in /opt/virtualmle.
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="virtualmle" \
      org.opencontainers.image.description="MCP server that tunes sequential recommenders" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="python:3.11-slim"
USER virtualmle
WORKDIR /data
VOLUME /data
EXPOSE 8765
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["virtualmle-container", "health"]
ENTRYPOINT ["virtualmle-container"]
CMD ["http"]
