# Sourced by packaging/tarball: `build_static` builds a static release binary, and sets `binary`.
#
# glibc with crt-static rather than musl, whose allocator is slower. An explicit target keeps the flag away from build scripts.
# Packed relocations take a hundredth of the space, and glibc 2.36 to apply them. Equal functions are merged by lld, which is the
# linker of rustc for x86-64 only. The remapped paths make the build independent of where it happens.
build_static() {
  local host home flags
  host=$(rustc -vV | sed -n 's/^host: //p')
  home=${CARGO_HOME:-$HOME/.cargo}
  flags="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"
  case $host in x86_64-*) flags+=" -C link-arg=-Wl,--icf=all" ;; esac
  RUSTFLAGS="$flags --remap-path-prefix=$PWD=/source --remap-path-prefix=$home=/cargo ${RUSTFLAGS-}" \
    cargo build --locked --release --target "$host" --bin outrigger --target-dir target/static
  binary=target/static/$host/release/outrigger
}
