"""A base image from this machine's own Python, for building the training image where no public registry is reachable."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PROGRAMS = ["/bin/sh", "/bin/ls", "/usr/bin/env"]
# Opened by name while running, so no program's list of libraries shows them; wheels need the last three.
LIBRARIES = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2", "libutil.so.1", "libpthread.so.0", "libdl.so.2",
             "librt.so.1", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1"]
LEFT_OUT = ["site-packages", "dist-packages", "__pycache__", "config-*", "ensurepip", "idlelib", "lib2to3", "test",
            "tests", "tkinter", "*.a"]
# How this machine reaches the package index; a base image is the place for that, the Dockerfile is not.
SETTINGS = ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL",
            "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"]


def settings() -> dict[str, str]:
    kept = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/lib/native"} | kept


def write_root(root: Path) -> None:
    """Writes the file system: the interpreter as `python`, with pip, its libraries, a shell and certificates."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = root / "usr/local/lib" / version
    interpreter = Path(os.path.realpath(sys.executable))
    shutil.copytree(sysconfig.get_path("stdlib"), packages, ignore=shutil.ignore_patterns(*LEFT_OUT))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        shutil.copytree(Path(folder, "lib", version, "site-packages"), packages / "site-packages")
    # Where Debian's Python looks.
    (packages / "dist-packages").symlink_to("site-packages")
    for name, source in [(f"/usr/local/bin/{version}", interpreter), *((name, Path(name)) for name in PROGRAMS)]:
        copy(source, root, name)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to(version)
    for program in [interpreter, *map(Path, PROGRAMS), *packages.rglob("*.so")]:
        copy_libraries(program, root)
    for line in subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout.splitlines():
        name, _, path = line.strip().partition(" => ")
        if name.split(" ")[0] in LIBRARIES and "x86-64" in name:
            copy(Path(path), root, f"/lib/native/{name.split(' ')[0]}")
    shutil.copytree("/etc/ssl/certs", root / "etc/ssl/certs", ignore_dangling_symlinks=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    shutil.copy("/etc/os-release", root / "etc/os-release")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def copy(source: Path, root: Path, name: str) -> None:
    target = root / name.lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def copy_libraries(program: Path, root: Path) -> None:
    for line in subprocess.run(["ldd", program], capture_output=True, text=True).stdout.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), None)
        if path and "ld-linux" in path:
            copy(Path(path), root, path)
        elif path:
            copy(Path(path), root, f"/lib/native/{Path(path).name}")
