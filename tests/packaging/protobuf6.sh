#!/bin/sh
# The client's own tests with protobuf 6, the older of the two versions that its stubs run with.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/.venv-protobuf6"
python=${PYTHON:-python3}
if [ ! -x "$venv/bin/pytest" ]; then
    "$python" -m venv "$venv"
    # grpcio-health-checking 1.80 is the last that takes protobuf 6.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        "protobuf==6.33.*" "grpcio<1.81" "grpcio-health-checking<1.81" "grpcio-reflection<1.81" \
        pytest pytest-asyncio pytest-timeout hypothesis -e "$root/clients[verify]"
fi
cd "$root"
"$venv/bin/python" -c 'import google.protobuf as p; assert p.__version__.startswith("6."), p.__version__; print("protobuf", p.__version__)'
# Without those that start a server, which is not installed here.
"$venv/bin/python" -m pytest -q tests/clients --ignore tests/clients/test_testing.py --ignore tests/clients/test_admin.py \
    --ignore tests/clients/test_documents.py
