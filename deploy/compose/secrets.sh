#!/bin/sh
# Makes what docker-compose.yml reads from ./secrets (or $SAESERVE_SECRETS), where it is not there:
# a CA and the servers' certificate, Valkey's password and its list of users. Run again, it renews a
# certificate of its own CA that ends within 30 days; the services take the new one without a
# restart. Files of your own stay as they are: tls/server.pem (the chain), tls/server.key and
# tls/ca.pem (what clients trust) from any CA, and redis.password; those that could not serve are
# refused here, before anything starts. Needs openssl.
#   TLS_NAMES="DNS:sae.example.org,IP:192.0.2.7"   further names that clients call the host by; given
#                                                  anew they make a new certificate, else they stay
set -eu
umask 077
days=397
secrets=${SAESERVE_SECRETS:-$(dirname "$0")/../../secrets}
own=subjectAltName=DNS:localhost,DNS:control,DNS:inference,IP:127.0.0.1,IP:::1${TLS_NAMES:+,$TLS_NAMES}

refuse() {
    echo "secrets.sh: $*" >&2
    exit 1
}

note() {
    echo "secrets.sh: note: $*" >&2
}

command -v openssl > /dev/null || refuse "openssl is not on PATH"
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

# Whether the containers' user can read the file, for which the folders above are no hindrance.
check_file() {
    [ -e "$1" ] || refuse "$PWD/$1 is missing: $2"
    [ -f "$1" ] || refuse "$PWD/$1 is not a file: remove it"
    [ -r "$1" ] || refuse "$PWD/$1 cannot be read: run this as its owner"
    [ -n "$(find "$1" \( -perm -004 -o -user 10001 -perm -400 -o -group 10001 -perm -040 \))" ] ||
        refuse "$PWD/$1 cannot be read by uid 10001, as which the containers run: chmod 444" \
            "(the folder above keeps other users of this host out), or chown 10001"
}

# A client asks for the name, or the address, that it calls.
serves() {
    case $1 in
        IP:*) found=$(openssl x509 -in tls/server.pem -noout -checkip "${1#IP:}") ;;
        *) found=$(openssl x509 -in tls/server.pem -noout -checkhost "$(echo "${1#DNS:}" | sed 's/^\*/any/')") ;;
    esac
    case $found in *"does match"*) ;; *) return 1 ;; esac
}

check_names() {
    openssl x509 -in tls/server.pem -noout -text | grep -q "Subject Alternative Name" ||
        refuse "$PWD/tls/server.pem has no subjectAltName, and clients accept it for no host"
    for name in $(echo "${TLS_NAMES:-}" | tr ',' ' '); do
        serves "$name" || refuse "$PWD/tls/server.pem is not valid for $name, which TLS_NAMES asks" \
            "for: put a certificate there that is, or change TLS_NAMES"
    done
    missing=
    for name in DNS:control DNS:inference DNS:localhost IP:127.0.0.1; do
        serves "$name" || missing="$missing $name"
    done
    [ -z "$missing" ] || note "$PWD/tls/server.pem is not valid for$missing: clients that call the" \
        "services by these names (docker compose run client, this host's loopback) will refuse it"
}

check_certificate() {
    check_file tls/server.pem "put the certificate of tls/server.key there, or remove that too"
    check_file tls/server.key "put the key of tls/server.pem there, or remove that too"
    check_file tls/ca.pem "put the certificate of the CA there that clients are to trust"
    for file in tls/server.pem tls/ca.pem; do
        openssl x509 -in "$file" -noout 2> /dev/null || refuse "$PWD/$file holds no certificate in PEM form"
    done
    # An empty passphrase, where openssl would ask for one.
    key=$(openssl pkey -in tls/server.key -passin pass: -pubout 2> /dev/null) ||
        refuse "$PWD/tls/server.key holds no private key in PEM form without a passphrase"
    [ "$key" = "$(openssl x509 -in tls/server.pem -noout -pubkey)" ] ||
        refuse "$PWD/tls/server.key is not the key of tls/server.pem: write both again, or remove" \
            "both to have a pair made"
    ends=$(openssl x509 -in tls/server.pem -noout -enddate)
    openssl x509 -in tls/server.pem -noout -checkend 0 > /dev/null ||
        refuse "$PWD/tls/server.pem expired on ${ends#*=}: renew it, or correct this host's clock"
    bits=$(openssl x509 -in tls/server.pem -noout -text |
        sed -n '/rsaEncryption/,/bit)/s/.*Public-Key: (\([0-9]*\) bit.*/\1/p')
    [ "${bits:-2048}" -ge 2048 ] || refuse "$PWD/tls/server.pem has an RSA key of $bits bits, and 2048 are needed"
    # As gRPC does, a CA that another one signed is trusted by itself.
    partial=$(openssl verify -help 2>&1 | sed -n 's/.*\(-partial_chain\).*/\1/p' | head -n 1)
    # shellcheck disable=SC2086 # one word, or none
    why=$(openssl verify $partial -purpose sslserver -CAfile tls/ca.pem -untrusted tls/server.pem tls/server.pem 2>&1) ||
        refuse "clients that trust $PWD/tls/ca.pem would refuse tls/server.pem:" \
            "$(echo "$why" | sed -n 's/^error [0-9]* at \([0-9]*\) depth lookup: */(certificate \1 of the chain) /p' | head -n 1)"
    check_names
    openssl x509 -in tls/server.pem -noout -checkend 2592000 > /dev/null ||
        note "$PWD/tls/server.pem ends on ${ends#*=}: the services take a new one without a restart"
}

# The services refuse such passwords too, but Valkey would have been started with it.
check_password() {
    check_file redis.password "it was just made"
    secret=$(cat redis.password)
    secret=${secret%"$(printf '\r')"}
    remedy="write a long random text to it, as from: openssl rand -hex 32"
    case $secret in
        "") refuse "$PWD/redis.password is empty: $remedy" ;;
        *[[:space:][:cntrl:]]*) refuse "$PWD/redis.password holds white space or control characters: $remedy" ;;
    esac
    [ "${#secret}" -ge 12 ] || refuse "$PWD/redis.password is shorter than 12 characters: $remedy"
    case $(printf %s "$secret" | tr '[:upper:]' '[:lower:]') in
        *changeme* | *change-me* | *password* | *passw0rd* | *secret* | *example* | *replace* | *"<"* | *"\${"* | \
            *qwerty* | *letmein* | *1234567* | *abcdefg* | *default* | *placeholder* | *your-* | *your_*)
            refuse "$PWD/redis.password is a placeholder, or holds a word that is tried first: $remedy" ;;
    esac
    twice=${secret#?}$secret
    case ${twice%?} in *"$secret"*) refuse "$PWD/redis.password repeats itself: $remedy" ;; esac
    [ "$(printf %s "$secret" | fold -w 1 | sort -u | wc -l)" -ge 6 ] ||
        refuse "$PWD/redis.password repeats few characters: $remedy"
}

if [ ! -e tls/server.pem ] && [ ! -e tls/server.key ]; then
    [ -e tls/ca.pem ] || make_ca
    [ -e ca.key ] || refuse "$PWD/tls/ca.pem has no key here; put tls/server.pem and" \
        "tls/server.key of that CA beside it, or remove it"
    make_certificate
    echo "made a certificate for ${own#*=} in $PWD/tls"
elif [ -e ca.key ] && openssl x509 -in tls/server.pem -noout -issuer 2> /dev/null | grep -q "saeserve CA" && {
    [ "$(cat server.names 2> /dev/null)" != "$own" ] ||
        ! openssl x509 -in tls/server.pem -noout -checkend 2592000 > /dev/null
}; then
    make_certificate
    echo "renewed the certificate in $PWD/tls"
fi
check_certificate
chmod 755 tls

if [ ! -e redis.password ]; then
    openssl rand -hex 32 > redis.password.new
    readable redis.password.new
    mv redis.password.new redis.password
    rm -f redis.acl
    echo "made the password of Valkey in $PWD/redis.password"
fi
check_password
[ ! -e redis.acl ] || [ -f redis.acl ] || refuse "$PWD/redis.acl is not a file: remove it"
# Valkey gets the password's hash alone, which is of no use to whoever reads it: the password is
# random. Callers without a password may ask whether the server lives, and nothing else.
hash=$(tr -d '\r\n' < redis.password | openssl dgst -sha256 | sed 's/^.* //')
printf 'user default on nopass -@all +ping\nuser saeserve on #%s ~* &* +@all -@admin -flushall -flushdb\n' "$hash" > redis.acl.new
chmod 444 redis.acl.new
# Kept where it says the same: a container goes on seeing the file that it was started with.
if cmp -s redis.acl.new redis.acl; then rm -f redis.acl.new; else mv redis.acl.new redis.acl; fi
