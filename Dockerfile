# The programs as images: docker build --target api|scheduler|agent|cli .
# One build stage for all of them, so that they always fit each other.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    scripts/build-init release \
    && cargo build --release --locked --workspace --bins \
    && mkdir /out \
    && cp target/release/jobworker target/release/jobworker-api target/release/jobworker-scheduler \
          target/release/jobworker-agent target/release/jobworker-init /out/

FROM debian:bookworm-slim AS base
RUN useradd --system --uid 10001 --no-create-home jobworker

FROM base AS api
COPY --from=build /out/jobworker-api /usr/local/bin/
USER 10001
ENV LISTEN=0.0.0.0:3000
EXPOSE 3000
ENTRYPOINT ["jobworker-api"]

FROM base AS scheduler
COPY --from=build /out/jobworker-scheduler /usr/local/bin/
USER 10001
ENV LISTEN=0.0.0.0:8080
EXPOSE 8080
ENTRYPOINT ["jobworker-scheduler"]

# Makes workspaces (ext4 in a file, mounted) and speaks with the node's engine: it is root of its node by nature.
FROM base AS agent
RUN apt-get update \
    && apt-get install -y --no-install-recommends e2fsprogs mount \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/jobworker-agent /out/jobworker-init /usr/local/bin/
VOLUME /var/lib/jobworker-agent
ENTRYPOINT ["jobworker-agent"]

FROM base AS cli
COPY --from=build /out/jobworker /usr/local/bin/
USER 10001
ENTRYPOINT ["jobworker"]
