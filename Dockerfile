# Images of both services: `docker build --target gateway .` and `--target worker`. Their programs are compiled here, or, with
# PROGRAMS=outside, taken from a folder of programs compiled elsewhere (deploy/build-images.sh --prebuilt).
#
# BuildKit is needed (it skips the stages nobody asks for), a remote frontend is not. The runtime holds the program, the
# C library it was linked to, certificates and time zones: no shell, no package manager.
ARG BUILD_BASE=rust:1-bookworm
ARG RUNTIME_BASE=debian:bookworm-slim
ARG PROGRAMS=inside

# The manifests and nothing else: as long as they stay the same, so does the layer with the compiled dependencies.
FROM ${BUILD_BASE} AS manifests
WORKDIR /all
COPY . .
RUN find . -name Cargo.toml -o -name Cargo.lock -o -path './.cargo/*' -type f | while read -r file; do \
      mkdir -p "/stubs/$(dirname "$file")" && cp "$file" "/stubs/$file"; \
    done \
 && find . -path '*/src/lib.rs' -o -path '*/src/main.rs' | while read -r file; do \
      mkdir -p "/stubs/$(dirname "$file")"; \
      case $file in */main.rs) echo 'fn main() {}' >"/stubs/$file" ;; *) : >"/stubs/$file" ;; esac; \
    done \
 && find /stubs -exec touch -d @0 {} +

FROM ${BUILD_BASE} AS dependencies
WORKDIR /build
COPY --from=manifests /stubs .
RUN cargo build --release --locked --package api-gateway --package distance-worker

FROM dependencies AS builder
COPY . .
# The stubs are as old as time; what was just copied is newer, so cargo compiles our crates and nothing else.
RUN find crates services xtask -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package api-gateway --package distance-worker \
 && mkdir /programs \
 && for program in api-gateway distance-worker; do strip --strip-debug -o "/programs/$program" "target/release/$program"; done

# What a program needs beside itself.
FROM ${RUNTIME_BASE} AS files
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates tzdata \
 && rm -rf /var/lib/apt/lists/*
RUN libraries="/lib/$(uname -m)-linux-gnu" \
 && mkdir -p /root-of-image/etc/ssl/certs /root-of-image/usr/share /root-of-image/usr/local/bin /root-of-image/tmp \
      "/root-of-image$libraries" /root-of-image/lib64 /root-of-image/var/lib/dpkg/status.d \
 && cp -L "$libraries"/libc.so.6 "$libraries"/libm.so.6 "$libraries"/libgcc_s.so.1 "/root-of-image$libraries/" \
 && for loader in /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.*; do \
      if [ -e "$loader" ]; then cp -L --parents "$loader" /root-of-image/; fi; \
    done \
 && cp -L /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ \
 && cp -a /usr/share/zoneinfo /root-of-image/usr/share/ \
 && rm -rf /root-of-image/usr/share/zoneinfo/right /root-of-image/usr/share/zoneinfo/posix \
 && printf 'root:x:0:0:root:/:/nonexistent\nfieldtrack:x:10001:10001:fieldtrack:/tmp:/nonexistent\n' >/root-of-image/etc/passwd \
 && printf 'root:x:0:\nfieldtrack:x:10001:\n' >/root-of-image/etc/group \
 && printf 'hosts: files dns\n' >/root-of-image/etc/nsswitch.conf \
 && chmod 1777 /root-of-image/tmp \
# A volume that is mounted there belongs to the program.
 && mkdir /root-of-image/data && chown 10001:10001 /root-of-image/data \
# Scanners look there for what is installed.
 && for package in libc6 libgcc-s1 ca-certificates tzdata; do \
      dpkg-query --status "$package" >"/root-of-image/var/lib/dpkg/status.d/$package"; \
    done

# Programs compiled outside; each is started once, so that one linked to something else is noticed here.
FROM files AS gateway-outside
COPY --chmod=0755 api-gateway /root-of-image/usr/local/bin/api-gateway
RUN chroot /root-of-image /usr/local/bin/api-gateway --version
FROM files AS worker-outside
COPY --chmod=0755 distance-worker /root-of-image/usr/local/bin/distance-worker
RUN chroot /root-of-image /usr/local/bin/distance-worker --version

# And the same for those compiled here.
FROM files AS gateway-inside
COPY --from=builder /programs/api-gateway /root-of-image/usr/local/bin/api-gateway
RUN chroot /root-of-image /usr/local/bin/api-gateway --version
FROM files AS worker-inside
COPY --from=builder /programs/distance-worker /root-of-image/usr/local/bin/distance-worker
RUN chroot /root-of-image /usr/local/bin/distance-worker --version

FROM gateway-${PROGRAMS} AS gateway-files
FROM worker-${PROGRAMS} AS worker-files

FROM scratch AS runtime
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PATH=/usr/local/bin
COPY --from=files --chown=10001:10001 /root-of-image/data /data
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM

FROM runtime AS gateway
EXPOSE 3000
ENTRYPOINT ["/usr/local/bin/api-gateway"]
HEALTHCHECK --interval=5s --timeout=2s --start-period=20s --retries=3 CMD ["/usr/local/bin/api-gateway", "healthcheck"]
COPY --from=gateway-files /root-of-image /
ARG RELEASE=manual
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=""
ARG SCHEMA_HEAD=""
ARG SCHEMA_MIN=""
ENV GITHUB_SHA=${RELEASE}
LABEL org.opencontainers.image.title="FieldTrack API" org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${RELEASE}" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.fieldtrack.schema-head="${SCHEMA_HEAD}" org.fieldtrack.schema-min="${SCHEMA_MIN}"

FROM runtime AS worker
EXPOSE 3010
ENTRYPOINT ["/usr/local/bin/distance-worker"]
HEALTHCHECK --interval=5s --timeout=2s --start-period=20s --retries=3 CMD ["/usr/local/bin/distance-worker", "healthcheck"]
COPY --from=worker-files /root-of-image /
ARG RELEASE=manual
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=""
ARG SCHEMA_HEAD=""
ARG SCHEMA_MIN=""
ENV GITHUB_SHA=${RELEASE}
LABEL org.opencontainers.image.title="FieldTrack worker" org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${RELEASE}" org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.fieldtrack.schema-head="${SCHEMA_HEAD}" org.fieldtrack.schema-min="${SCHEMA_MIN}"
