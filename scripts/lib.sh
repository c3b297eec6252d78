# Shared by the scripts: one target directory, errors stop, stages say how long they took.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}" CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"

stage() { # name, command...
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    if "$@"; then echo "== $name: ok, $((SECONDS - start)) s"; else
        local code=$?
        echo "== $name: FAILED with exit code $code after $((SECONDS - start)) s"
        exit 1
    fi
}
