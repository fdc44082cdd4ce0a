#!/bin/sh
# Makes what docker-compose.yml reads from ./secrets (or $SAESERVE_SECRETS), where it is not there:
# a CA and the servers' certificate, Valkey's password and its list of users. Run again, it renews a
# certificate of its own CA that ends within 30 days; the services take the new one without a
# restart. Files of your own stay as they are: tls/server.pem (the chain), tls/server.key and
# tls/ca.pem (what clients trust) from any CA. Needs openssl.
#   TLS_NAMES="DNS:sae.example.org,IP:192.0.2.7"   further names that clients call the host by; given
#                                                  anew they make a new certificate, else they stay
set -eu
umask 077
days=397
secrets=${SAESERVE_SECRETS:-$(dirname "$0")/../../secrets}
own=subjectAltName=DNS:localhost,DNS:control,DNS:inference,IP:127.0.0.1,IP:::1${TLS_NAMES:+,$TLS_NAMES}

command -v openssl > /dev/null || { echo "secrets.sh: openssl is not on PATH" >&2; exit 1; }
mkdir -p "$secrets/tls"
chmod 700 "$secrets"
cd "$secrets"
[ -n "${TLS_NAMES:-}" ] || [ ! -e server.names ] || own=$(cat server.names)

# Containers run as 10001 and see single files or tls/ by mounts; other users of this host do not
# get past the folder above, which stays the owner's. Only root can give files away, so that nobody
# but 10001 can read them in a container either.
readable() {
    if [ "$(id -u)" = 0 ]; then chown 10001:10001 "$@" && chmod 400 "$@"; else chmod 444 "$@"; fi
}

make_ca() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 \
        -subj "/CN=saeserve CA" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout ca.key.new -out ca.pem.new 2> /dev/null
    mv ca.key.new ca.key
    chmod 444 ca.pem.new
    mv ca.pem.new tls/ca.pem
}

make_certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=saeserve" \
        -addext "$own" -keyout tls/server.key.new -out server.csr 2> /dev/null
    printf '%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n' "$own" > server.ext
    openssl x509 -req -in server.csr -CA tls/ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -sha256 \
        -days "$days" -extfile server.ext -out tls/server.pem.new 2> /dev/null
    rm -f server.csr server.ext
    readable tls/server.key.new
    chmod 444 tls/server.pem.new
    mv tls/server.key.new tls/server.key
    mv tls/server.pem.new tls/server.pem
    echo "$own" > server.names
}

if [ ! -e tls/server.pem ] && [ ! -e tls/server.key ]; then
    [ -e tls/ca.pem ] || make_ca
    [ -e ca.key ] || {
        echo "secrets.sh: $PWD/tls/ca.pem has no key here; put tls/server.pem and tls/server.key" \
            "of that CA beside it, or remove it" >&2
        exit 1
    }
    make_certificate
    echo "made a certificate for ${own#*=} in $PWD/tls"
elif [ -e ca.key ] && openssl x509 -in tls/server.pem -noout -issuer | grep -q "saeserve CA" && {
    [ "$(cat server.names 2> /dev/null)" != "$own" ] ||
        ! openssl x509 -in tls/server.pem -noout -checkend 2592000 > /dev/null
}; then
    make_certificate
    echo "renewed the certificate in $PWD/tls"
fi
chmod 755 tls

if [ ! -e redis.password ]; then
    openssl rand -hex 32 > redis.password.new
    readable redis.password.new
    mv redis.password.new redis.password
    rm -f redis.acl
    echo "made the password of Valkey in $PWD/redis.password"
fi
# Valkey gets the password's hash alone, which is of no use to whoever reads it: the password is
# random. Callers without a password may ask whether the server lives, and nothing else.
hash=$(tr -d '\r\n' < redis.password | openssl dgst -sha256 | sed 's/^.* //')
printf 'user default on nopass -@all +ping\nuser saeserve on #%s ~* &* +@all -@admin -flushall -flushdb\n' "$hash" > redis.acl.new
chmod 444 redis.acl.new
# Kept where it says the same: a container goes on seeing the file that it was started with.
if cmp -s redis.acl.new redis.acl; then rm -f redis.acl.new; else mv redis.acl.new redis.acl; fi
