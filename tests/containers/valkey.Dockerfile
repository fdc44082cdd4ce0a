# Stands in for Valkey's own image where no registry can be reached: Debian's Redis by Valkey's names.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN useradd --system --user-group --no-create-home valkey \
    && apt-get update \
    && apt-get install --yes --no-install-recommends "redis-server=5:7*" "redis-tools=5:7*" \
    && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/bin/redis-server /usr/local/bin/valkey-server \
    && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli \
    && install -d -o valkey -g valkey /data
WORKDIR /data
VOLUME /data
CMD ["valkey-server"]
