#!/bin/sh
# Prints the first Python that runs and has a lock, or says what it found instead.
#
#   requirements/find_python.sh 3.12 3.13 python3
#
# A version is looked for on PATH, then under pyenv (whose shims may stand on PATH and yet not run); a name
# ("python3") on PATH only, after every version. PYTHON=/path/to/python, when set, is the only candidate.
set -u
here=$(dirname "$0")

candidates() {
    [ -z "${PYTHON:-}" ] || { echo "$PYTHON"; return; }
    pyenv=${PYENV_ROOT:-$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")}
    for version in "$@"; do command -v "python$version"; done
    for version in "$@"; do ls -d "$pyenv/versions/$version".*[0-9]/bin/python 2>/dev/null; done
    for name in "$@"; do command -v "$name"; done
}

candidates "$@" | {
    found=
    while read -r python; do
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
            version='does not run'
        [ -f "$here/py$(echo "$version" | tr -d .).txt" ] && command -v "$python" && exit
        found="$found
  $python ($version)"
    done
    echo "No Python that runs and has a lock in requirements/ (3.11, 3.12, 3.13).
Wanted: ${PYTHON:-$*}. Found:${found:- none}
Install one, or name it; the Makefile says by which variable (make demo PYTHON=/path/to/python3.12)" >&2
    exit 1
}
