# Sourced by the drills that run one test of `cargo test --test sidecar` for longer than the gate does.
# `cargo_drill VARIABLE DEFAULT TEST [VALUE]`: sets the variable to the value. `--help` prints the header of the drill.
cargo_drill() {
  if [[ ${4-} == -h || ${4-} == --help ]]; then
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
  elif [[ ! ${4-$2} =~ ^[0-9]+$ ]]; then
    echo "$(basename "$0"): \`$4\` is not a number; --help explains" >&2
    exit 2
  fi
  cd "$(dirname "$0")/../.."
  echo "building the test, then running it with $1=${4-$2}"
  export "$1=${4-$2}"
  exec cargo test --locked --quiet --test sidecar -- --nocapture --exact "$3"
}
