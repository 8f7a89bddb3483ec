# Two stages: the toolchain builds, a small Debian runs. Works with BuildKit and with the classic builder,
# so there are no cache mounts here.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
ENV CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=debuginfo CARGO_INCREMENTAL=0
RUN cargo build --release --locked -p rowcast --bin rowcast \
 && install -D target/release/rowcast /out/usr/local/bin/rowcast \
 && install -D -m 644 LICENSE /out/usr/share/doc/rowcast/LICENSE

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rowcast" \
      org.opencontainers.image.description="Pushes every committed row change of a PostgreSQL database to the people who may see it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends ca-certificates >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin rowcast
COPY --from=build /out/ /
# Nothing is written to the file system: run it with --read-only.
USER 10001:10001
# 4000 for clients. 4001 for metrics and readiness: it listens on 127.0.0.1 unless
# ROWCAST_INTERNAL_HOST says otherwise, and is never for the world.
EXPOSE 4000 4001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["rowcast", "healthcheck"]
ENTRYPOINT ["rowcast"]
CMD ["serve"]
