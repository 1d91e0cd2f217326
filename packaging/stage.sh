# Sourced by packaging/tarball and packaging/deb/build: writes what a package holds beside the binary.
# `stage BINARY FOLDER`: man/*.1 and completions/ of a binary that runs on this machine.
stage() {
  local binary=$1 folder=$2 shell
  rm -rf "$folder"
  mkdir -p "$folder/completions"
  install -m 755 "$binary" "$folder/outrigger"
  # No setting of this machine may become part of a page.
  local clean=(env -i PATH="$PATH" "$folder/outrigger")
  "${clean[@]}" man "$folder/man" > /dev/null
  for shell in bash zsh fish; do
    "${clean[@]}" completions "$shell" > "$folder/completions/outrigger.$shell"
  done
}

# The time of the last commit, for files in archives: two builds of one commit are equal.
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2> /dev/null) || SOURCE_DATE_EPOCH=$(date -r Cargo.lock +%s)
  export SOURCE_DATE_EPOCH
fi
