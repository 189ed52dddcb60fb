#!/bin/sh
# Install the peers' servers from Debian, as far as they are missing. None of them is left running by this.
set -eu

packages=
command -v beanstalkd > /dev/null || packages="$packages beanstalkd"
command -v redis-server > /dev/null || packages="$packages redis-server"
ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || packages="$packages postgresql"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "The peers need:$packages. Install them (apt-get install$packages), then try again." >&2
    exit 1
fi
echo "Installing$packages ..." >&2
apt-get update -q > /dev/null
# The runlevel of maintenance: the packages' scripts start no service in it.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages > /dev/null
