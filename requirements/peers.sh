#!/bin/sh
# Makes the environment DIR of the peers from requirements/peers.txt: nothing of ours is installed into it.
#
#   requirements/peers.sh DIR VERSION...     versions as for find_python.sh
#
# DIR is made anew when the Python or the list has changed; otherwise this takes no time.
set -eu
dir=$1
shift
cd "$(dirname "$0")/.."

python=$(requirements/find_python.sh "$@")
stamp="$python $(cksum requirements/peers.txt)"
if [ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "Making $dir from requirements/peers.txt (torch is 200 MB on its CPU build, some GB with CUDA)"
    "$python" -m venv --clear "$dir"
    "$dir/bin/python" -m pip --disable-pip-version-check -q install --only-binary :all: -r requirements/peers.txt
    echo "$stamp" > "$dir/stamp"
fi
