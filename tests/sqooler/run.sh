#!/bin/sh
# sqooler's own programs against a server. sqooler 0.9.0 pins older packages, and forgets to name python-decouple.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv="$root/.venv-sqooler"
python=${PYTHON:-python3}
if [ ! "$venv/.ready" -nt "$0" ]; then
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        sqooler==0.9.0 python-decouple==3.8 pytest==9.2.0 pytest-timeout==2.4.0 pytest-rerunfailures==16.7 trustme==1.2.1 -e "$root/clients[verify]"
    touch "$venv/.ready"
fi
cd "$root"
export SPOOLWAY_COMMAND="$(realpath "$1")"
shift
"$venv/bin/python" -m pytest -c tests/sqooler/pytest.ini --import-mode=importlib -q -s --durations=5 tests/sqooler "$@"
