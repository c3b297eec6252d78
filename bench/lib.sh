# Shared by the bench's scripts; they stay in the caller's directory, where the files lie that he names.
set -euo pipefail

build() { # packages; the bench itself is always built. What was built comes first on PATH.
    local packages=(-p annulus-bench) package target
    for package in "$@"; do packages+=(-p "$package"); done
    command -v cargo >/dev/null || { echo "cargo is needed" >&2; exit 77; }
    (cd "$root" && CARGO_INCREMENTAL=0 cargo build --quiet --release "${packages[@]}") >&2
    target=${CARGO_TARGET_DIR:-target}
    case $target in /*) ;; *) target=$root/$target ;; esac
    export PATH="$target/release:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
}
