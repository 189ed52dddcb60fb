#!/bin/sh
# What `make lb-test` needs beside Python: HAProxy, nginx and promtool, from Debian's packages.
set -eu

missing=""
for pair in haproxy:haproxy nginx:nginx-light promtool:prometheus; do
    PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" > /dev/null || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "lb-test needs$missing: install these packages (on Debian: sudo apt-get install$missing), then run it again" >&2
    exit 1
fi
echo "Installing$missing ..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Their services are not wanted: only the programs.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing > /dev/null
