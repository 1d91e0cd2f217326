# Sourced by packaging/tarball: `build_static` builds a static release binary, and sets `binary`.
#
# glibc with crt-static rather than musl, whose allocator is slower. An explicit target keeps the flag away from build scripts.
# The remapped paths make the build independent of where it happens.
build_static() {
  local host home
  host=$(rustc -vV | sed -n 's/^host: //p')
  home=${CARGO_HOME:-$HOME/.cargo}
  RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$PWD=/source --remap-path-prefix=$home=/cargo ${RUSTFLAGS-}" \
    cargo build --locked --release --target "$host" --bin outrigger --target-dir target/static
  binary=target/static/$host/release/outrigger
}
