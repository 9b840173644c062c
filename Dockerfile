# One image for the four services and the one-shot jobs; its arguments select one:
#   docker build --tag hypervisor-telemetry:0.1.0 .
#   docker run hypervisor-telemetry:0.1.0 ring-metrics --host 0.0.0.0
# `--target demo` is the same with the demo's agents.

ARG BASE=python:3.13-slim-bookworm@sha256:386df64585134ba00b1d5e307acb1e72f33e9e87dbbb00aad9b8f24dbb51db72

# --- build: the packages of the lock, and our wheel, in a virtual environment -------------------------------------
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY deploy/image/build.lock deploy/image/services.lock deploy/image/
RUN ["python3", "-m", "venv", "/opt/build"]
RUN ["python3", "-m", "venv", "--without-pip", "/opt/telemetry"]
RUN ["/opt/build/bin/pip", "install", "--require-hashes", "--requirement", "deploy/image/build.lock"]
RUN ["/opt/build/bin/pip", "--python", "/opt/telemetry/bin/python", "install", "--only-binary", ":all:", \
     "--require-hashes", "--requirement", "deploy/image/services.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY schemas/hypervisor_schemas schemas/hypervisor_schemas
COPY producers/hypervisor_producers producers/hypervisor_producers
COPY consumers/hypervisor_consumers consumers/hypervisor_consumers
COPY hypervisor_telemetry hypervisor_telemetry
RUN ["/opt/build/bin/pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "/wheels", "."]
RUN ["/opt/build/bin/pip", "--python", "/opt/telemetry/bin/python", "install", "--no-deps", "--no-index", \
     "--find-links", "/wheels", "hypervisor-telemetry"]

# --- the same with what the demo's agents need --------------------------------------------------------------------
FROM build AS build-demo
COPY deploy/image/demo.lock deploy/image/
RUN ["/opt/build/bin/pip", "--python", "/opt/telemetry/bin/python", "install", "--only-binary", ":all:", \
     "--require-hashes", "--requirement", "deploy/image/demo.lock"]

# --- run: no compiler, no pip of ours, nothing writable but two folders; the root file system may be read-only -----
FROM ${BASE} AS run
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="hypervisor-telemetry" \
      org.opencontainers.image.description="Telemetry for fleets of AI agents, on Kafka." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
# libpq looks up its user. Stored data (the index on SQLite, an outbox) goes to this user's folder; mount it.
RUN ["groupadd", "--gid", "10001", "telemetry"]
RUN ["useradd", "--uid", "10001", "--gid", "10001", "--no-log-init", "--create-home", \
     "--home-dir", "/var/lib/hypervisor-telemetry", "--shell", "/usr/sbin/nologin", "telemetry"]
ENV PATH=/opt/telemetry/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/hypervisor-telemetry
USER 10001:10001
EXPOSE 8000 8001 8002 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "hypervisor_telemetry.healthcheck"]
ENTRYPOINT ["hypervisor-telemetry"]
CMD ["--help"]

FROM run AS demo
COPY --from=build-demo /opt/telemetry /opt/telemetry

# The last stage is the default target.
FROM run AS services
COPY --from=build /opt/telemetry /opt/telemetry
