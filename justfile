# Each recipe is one line over a script that also runs without just.

# Everything that a change must pass
verify:
    bash .ci/run

# Format, lints, documentation, manifests
check:
    scripts/check

# All tests
test:
    cargo test --workspace

# Licences, sources, advisories
deny:
    scripts/deny

# Every fuzz target, SECONDS each
fuzz SECONDS="20":
    scripts/fuzz {{ SECONDS }}

# Instructions per packet, compared with their bounds
instructions:
    scripts/instructions

# Three hosts on this machine that ping each other through the VPN
demo:
    cargo run --release -p annulus-cli -- demo

# One scenario of the simulator
sim NAME="ring-1000" SEED="1":
    cargo run --release -p annulus-sim -- run sim/scenarios/{{ NAME }}.toml --seed {{ SEED }}

# Annulus beside other VPNs, in tables with ratios (scripts/bench-peers installs some; as root)
bench-vpn *ARGS:
    bench/run {{ ARGS }}
