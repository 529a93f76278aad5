# syntax=docker/dockerfile:1
# Both programs in one image without shell and package manager: docker build -t bugfeed .
#
# Started without arguments it is the all-in-one, which listens on the container's own loopback; with arguments it is what they
# say: `gateway …`, `hooks …`. The shim is /usr/local/bin/bugfeed-shim. Nothing is written but below /var/lib/bugfeed, so that the
# root file system can be read-only.

FROM rust:1.94-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist --bins -p bugfeed -p bugfeed-shim && \
    install -D -m 755 -t /out/bin target/dist/bugfeed target/dist/bugfeed-shim && \
    install -d /out/data

# For health checks of Docker: a program that can do nothing but GET. Kubernetes asks by itself.
FROM debian:bookworm-slim AS wget
RUN apt-get update && \
    apt-get install --yes --no-install-recommends busybox-static && \
    install -D -m 755 /bin/busybox /out/bin/wget

# glibc, libgcc, certificates of authorities, time zones; the user nonroot (65532).
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/bin /usr/local/bin
COPY --from=wget /out/bin /usr/local/bin
COPY --from=build --chown=65532:65532 /out/data /var/lib/bugfeed
USER 65532:65532
WORKDIR /var/lib/bugfeed
# The admin port of the all-in-one and of gateways, which hooks and shim do not have: their services say it themselves.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s \
    CMD ["/usr/local/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8845/livez"]
ENTRYPOINT ["/usr/local/bin/bugfeed"]
CMD ["serve", "--data-dir", "/var/lib/bugfeed"]
