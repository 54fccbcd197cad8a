"""Makes what the secure broker and the worker want to know: certificates, passwords, a key.

    python deploy/credentials.py FOLDER [NAME ...]

NAMEs are the broker's host names and addresses, beside `mosquitto` and this machine. What is there
already is kept, so that it may be run again; an authority signs one certificate and is forgotten.
Needs the program `openssl` and nothing but Python's own library. As root each file is given to the
user who reads it in the images (Mosquitto 1883, ours 10001, Grafana 472, Prometheus 65534).

    ca.pem broker.pem broker.key   the authority's certificate, the broker's, and its key
    password passwords             the user `earlyfire`'s password; hashed, for Mosquitto
    worker_key                     what the worker asks of its clients
    grafana_password               of Grafana's user `admin`
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("mosquitto", "mosquitto.earlyfire.svc", "localhost", "127.0.0.1", "::1")
DAYS = "825"
ROUNDS = 10_000
OWNERS = {  # name: user, group, mode
    "ca.pem": (10001, 10001, 0o444),
    "broker.pem": (1883, 1883, 0o444),
    "broker.key": (1883, 1883, 0o400),
    "passwords": (1883, 1883, 0o400),
    "password": (10001, 10001, 0o400),
    "worker_key": (10001, 65534, 0o440),
    "grafana_password": (472, 472, 0o400),
}


def main(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for names_made, make in (
        (("ca.pem", "broker.pem", "broker.key"), lambda: certificates(names)),
        (("password", "passwords"), passwords),
        (("worker_key",), lambda: [secrets.token_urlsafe(32).encode() + b"\n"]),
        # Grafana takes the whole file, a line's end included.
        (("grafana_password",), lambda: [secrets.token_urlsafe(24).encode()]),
    ):
        if all((folder / name).exists() for name in names_made):
            continue
        for name, content in zip(names_made, make(), strict=True):
            write(folder / name, content)
        print(f"made: {', '.join(names_made)}")


def certificates(names: tuple[str, ...]) -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        at = Path(place)
        elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl(
            *("req", "-x509", *elliptic, "-keyout", at / "ca.key", "-out", at / "ca.pem"),
            *("-subj", "/CN=earlyfire broker authority", "-days", DAYS),
            *("-addext", "keyUsage=critical,keyCertSign"),
        )
        openssl(
            *("req", *elliptic, "-keyout", at / "key", "-out", at / "request"),
            *("-subj", f"/CN={names[0]}"),
        )
        (at / "extensions").write_text(
            "basicConstraints=critical,CA:FALSE\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
            f"subjectAltName={','.join(map(alternative, names))}\n"
        )
        openssl(
            *("x509", "-req", "-in", at / "request", "-CA", at / "ca.pem", "-CAkey", at / "ca.key"),
            *("-CAcreateserial", "-extfile", at / "extensions", "-days", DAYS, "-out", at / "pem"),
        )
        return [(at / name).read_bytes() for name in ("ca.pem", "pem", "key")]


def alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def openssl(*arguments: object) -> None:
    try:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        sys.exit("credentials: no program `openssl`; install it (Debian: apt-get install openssl)")
    if done.returncode:
        sys.exit(f"credentials: openssl {arguments[0]}: {done.stderr.strip()}")


def passwords() -> list[bytes]:
    """The password and its line in Mosquitto's `$7$` form (PBKDF2-SHA512)."""
    password, salt = secrets.token_urlsafe(24), secrets.token_bytes(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS)
    salted = f"$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"
    return [f"{password}\n".encode(), f"earlyfire:{salted}\n".encode()]


def write(path: Path, content: bytes) -> None:
    """Whole, by rename, and never readable for others in between."""
    user, group, mode = OWNERS[path.name]
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), user, group)
    draft.rename(path)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), tuple(dict.fromkeys((*NAMES, *sys.argv[2:]))))
