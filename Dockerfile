# One image, one binary: docker build --tag rekey . && docker run --publish 8080:8080 --volume rekey:/var/lib/rekey rekey

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay with the builder, so the binary must leave them within the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package server --bin rekey \
    && install -D target/release/rekey /out/rekey

FROM debian:bookworm-slim
# The certificates of public authorities are for Entra, Graph and the ticket systems; the newest are the right ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/rekey --create-home --shell /usr/sbin/nologin rekey
COPY --from=build /out/rekey /usr/local/bin/rekey

# By number, so that an orchestrator can see that it is not root.
USER 10001
# Where the port can be published from: 127.0.0.1 of a container is reached by nobody.
ENV REKEY_LISTEN=0.0.0.0:8080
# The database of a single machine lives below the working directory.
WORKDIR /var/lib/rekey
VOLUME /var/lib/rekey
EXPOSE 8080
ENTRYPOINT ["rekey"]
CMD ["serve"]
