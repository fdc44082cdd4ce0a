#!/bin/sh
# make up: secrets where there are none, all services, and a first admin token. What else is given
# goes to `docker compose up`, such as --scale worker=2. COMPOSE names another program, COMPOSE_FILE
# further files: docker-compose.yml:deploy/compose/gpu.yml.
set -eu
cd "$(dirname "$0")/../.."
compose=${COMPOSE:-docker compose}
secrets=${SAESERVE_SECRETS:-$PWD/secrets}
token=$secrets/admin.token
REVISION=${REVISION:-$(git rev-parse HEAD 2> /dev/null || true)}
export REVISION

deploy/compose/secrets.sh
mkdir -p data
$compose up --detach ${BUILD---build} "$@"

# Control gives the store its identity when it has reached Valkey; tokens are kept there.
if [ ! -s "$token" ]; then
    umask 077
    tries=60
    until $compose exec -T control saeserve token create --scope admin --days 365 --note "made by make up" \
        > "$token.new" 2> "$token.why"; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ]; then
            cat "$token.why" >&2
            rm -f "$token.new" "$token.why"
            echo "no token could be made; see: $compose logs control" >&2
            exit 1
        fi
        sleep 2
    done
    rm -f "$token.why"
    # The client's container reads it as 10001; others on this host do not get past the folder.
    if [ "$(id -u)" = 0 ]; then chown 10001:10001 "$token.new" && chmod 400 "$token.new"; else chmod 444 "$token.new"; fi
    mv "$token.new" "$token"
fi

cat << END
saeserve is up: control 127.0.0.1:7070, inference 127.0.0.1:7071, Prometheus http://127.0.0.1:9090
For the command line and Python on this host:
  export SAESERVE_TLS_CA=$secrets/tls/ca.pem
  export SAESERVE_TOKEN_FILE=$token
or without an installation: $compose run --rm client jobs ls
END
