"""The image of the sidecar, and podman, for the drills that run containers. Needs root on Debian or Ubuntu."""
import os, shutil, subprocess

from harness import ROOT, die

APT = {"podman": "podman", "buildah": "buildah", "runc": "runc"}
# Hosts without a systemd of their own, or with low limits, need these.
CONTAINERS = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


def run(*command, check=True, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if check and done.returncode:
        die(f"`{' '.join(map(str, command))}` failed:\n{done.stdout}{done.stderr}")
    return done


def prepare(o, folder, packages=()):
    """Installs podman and the packages of these tools, and finds or builds a static binary."""
    if os.geteuid():
        die("needs root")
    missing = [package for tool, package in {**APT, **dict(packages)}.items() if not shutil.which(tool)]
    if missing:
        print(f"installing by apt: {' '.join(missing)}", flush=True)
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run("apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends", *missing)
    (folder / "containers.conf").write_text(CONTAINERS)
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    if not o.binary:
        print("building a static binary", flush=True)
        run(ROOT / "packaging/build", "--static")
        o.binary = ROOT / "target/static/outrigger"
    if "INTERP" in run("readelf", "-l", o.binary).stdout:
        die(f"{o.binary} is not static (packaging/build --static makes a static one)")


def build_image(image, folder, program):
    run(ROOT / "packaging/container/image-root", folder / "build/image", program)
    run("podman", "build", "--format", "docker", "-t", image, "-f", ROOT / "packaging/container/Containerfile",
        "--build-context", f"build={folder / 'build'}", ROOT)
