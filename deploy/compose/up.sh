#!/bin/sh
# make up: secrets where there are none, all services, and a first admin token. What else is given
# goes to `docker compose up`, such as --scale worker=2. COMPOSE names another program, COMPOSE_FILE
# further files: docker-compose.yml:deploy/compose/gpu.yml.
set -eu
cd "$(dirname "$0")/../.."
compose=${COMPOSE:-docker compose}

# The program reads .env itself; where it names these, the scripts have to agree.
from_env_file() {
    [ ! -f .env ] || sed -n "s/^$1=//p" .env | tail -n 1 | tr -d '"'"'"
}
TLS_NAMES=${TLS_NAMES:-$(from_env_file TLS_NAMES)}
SAESERVE_SECRETS=${SAESERVE_SECRETS:-$(from_env_file SAESERVE_SECRETS)}
SAESERVE_SECRETS=${SAESERVE_SECRETS:-$PWD/secrets}
data=${SAESERVE_DATA:-$(from_env_file SAESERVE_DATA)}
REVISION=${REVISION:-$(git rev-parse HEAD 2> /dev/null || true)}
export TLS_NAMES SAESERVE_SECRETS REVISION

deploy/compose/secrets.sh
secrets=$(cd "$SAESERVE_SECRETS" && pwd)
token=$secrets/admin.token
mkdir -p "${data:-data}"
$compose up --detach ${BUILD---build} "$@"

# Control gives the store its identity when it has reached Valkey; tokens are kept there.
umask 077
tries=60
until known=$($compose exec -T control saeserve token ls --json 2> "$token.why"); do
    tries=$((tries - 1))
    if [ "$tries" = 0 ]; then
        cat "$token.why" >&2
        rm -f "$token.why"
        echo "control does not answer; see: $compose logs control" >&2
        exit 1
    fi
    sleep 2
done
rm -f "$token.why"
# The token of a deployment whose volumes were removed is worth nothing in a new one.
id=$(cut -d _ -f 2 "$token" 2> /dev/null || true)
case $known in
    *"\"${id:-none}\""*) ;;
    *)
        $compose exec -T control saeserve token create --scope admin --days 365 \
            --note "made by make up" > "$token.new"
        # The client's container reads it as 10001; others on this host do not get past the folder.
        if [ "$(id -u)" = 0 ]; then
            chown 10001:10001 "$token.new" && chmod 400 "$token.new"
        else
            chmod 444 "$token.new"
        fi
        mv "$token.new" "$token"
        ;;
esac

cat << END
saeserve is up: control 127.0.0.1:7070, inference 127.0.0.1:7071, Prometheus http://127.0.0.1:9090
For the command line and Python on this host:
  export SAESERVE_TLS_CA=$secrets/tls/ca.pem
  export SAESERVE_TOKEN_FILE=$token
or without an installation: $compose --profile client run --rm client jobs ls
END
