#!/bin/sh
# Makes the environment DIR from the hashed lock of its Python, and installs the project into it in place.
#
#   requirements/venv.sh DIR VERSION...     versions as for find_python.sh
#
# DIR is made anew when the Python, the lock or the project's folder has changed; otherwise this takes no time.
set -eu
dir=$1
shift
cd "$(dirname "$0")/.."

python=$(requirements/find_python.sh "$@")
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
lock=requirements/py$(echo "${version%.*}" | tr -d .).txt
stamp="$python $version $(pwd) $(cksum "$lock")"
pip() { "$dir/bin/python" -m pip --disable-pip-version-check -q "$@"; }

if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || {
        echo "$python has no venv module: on Debian or Ubuntu, apt install python${version%.*}-venv;" \
             "or name another Python: make demo PYTHON=/path/to/python" >&2
        exit 1
    }
    echo "Making $dir with Python $version from $lock (about 220 MB, downloaded when pip's cache is empty)"
    "$python" -m venv --clear "$dir"
    pip install --require-hashes --no-deps --only-binary :all: -r "$lock"
fi
if [ ! -f "$dir/stamp" ] || [ setup.cfg -nt "$dir/stamp" ]; then
    pip install --no-deps --no-build-isolation -e .
    echo "$stamp" > "$dir/stamp"
fi
