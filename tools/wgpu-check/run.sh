#!/usr/bin/env bash
# A training step of supernets on Burn's CPU backend and on wgpu through Mesa's software Vulkan,
# compared with our own executor. See README.md.
set -euo pipefail
crates=$(realpath "$(dirname "$0")/../../crates")
manifest=$crates/oncefit-burn/Cargo.toml

if ! compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers >/dev/null
fi
# Mesa's loader complains without one.
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
  XDG_RUNTIME_DIR=$(mktemp -d)
  trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
  export XDG_RUNTIME_DIR
fi

features=${ONCEFIT_BURN_FEATURES:-wgpu}
devices=${ONCEFIT_BURN_DEVICES:-flex wgpu}
run() {
  # shellcheck disable=SC2086 # the devices are several arguments
  cargo run --manifest-path "$manifest" --release --locked --quiet --features "$features" --example training_step -- "$@" $devices
  echo
}

rustc --version
cargo tree --manifest-path "$manifest" --locked --quiet --features "$features" --depth 1 | grep burn-tensor
cargo tree --manifest-path "$manifest" --locked --quiet --features "$features" --prefix none | grep -oE '^(wgpu|cubecl) v[0-9.]+' | sort -u
echo
if [ $# -gt 0 ]; then
  run "$@"
else
  run fm-nano 32 4
  run vgg-nano 32 4
  run densenet-nano 32 4
  run genetic-nano 32 4
  run "$crates"/oncefit-nn/tests/spaces/tiny-mixed.space 32 4
  run "$crates"/oncefit-nn/tests/spaces/tiny-alexnet.space 32 4
  run ofa-mobilenet-v3 2 2
  run ofa-resnet50d 2 1
fi
