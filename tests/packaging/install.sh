#!/bin/sh
# The wheels as users get them, in bare environments: the client alone, then the server. Run by `make dist`.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
pip="-m pip install --quiet --disable-pip-version-check"

echo "spoolway-client alone ..."
"$python" -m venv "$work/client"
"$work/client/bin/python" $pip "$root"/dist/spoolway_client-*.whl
"$work/client/bin/python" "$root/tests/packaging/only_these.py" grpcio protobuf googleapis-common-protos typing_extensions spoolway-client

echo "spoolway-server with its client ..."
"$python" -m venv "$work/server"
"$work/server/bin/python" $pip "$root"/dist/spoolway_client-*.whl "$root"/dist/spoolway_server-*.whl
"$work/server/bin/spoolway" --version

echo "a client environment submits to a server environment and spools for it ..."
cd "$work"
"$work/client/bin/python" "$root/tests/packaging/submit_and_spool.py" "$work/server/bin/spoolway"
echo "the wheels install and work"
