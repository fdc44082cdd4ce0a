# Stands in for Prometheus' own image where no registry can be reached: Debian's package.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "prometheus=2*" \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o nobody /prometheus
USER 65534:65534
VOLUME /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
