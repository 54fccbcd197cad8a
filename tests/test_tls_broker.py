"""A Mosquitto with TLS, passwords and rights, as a whole command meets it: what is wrong is one
clear message and exit code 2, before anything is played."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import left_out
from tests.playing import Nursery, camera, open_mosquitto, pictures, run_folders, scenario

PASSWORD = "correct horse battery"
VARIABLE = "EARLYFIRE_MQTT_PASSWORD"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem has signed good.pem, for 127.0.0.1, expired.pem and elsewhere.pem; other.pem has
    signed nothing."""
    openssl = shutil.which("openssl")
    if openssl is None:
        left_out("no openssl on PATH")
    assert openssl is not None
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    # `x509 -days` cannot look back; `ca` can, and wants books kept
    (folder / "books").write_text("")
    (folder / "serial").write_text("1000\n")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=us\n[us]\ndatabase=books\nserial=serial\nnew_certs_dir=.\n"
        "default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n"
    )
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    for name, host, start, end in (
        ("good", "IP:127.0.0.1", now - day, now + day),
        ("expired", "IP:127.0.0.1", now - 3 * day, now - day),
        ("early", "IP:127.0.0.1", now + day, now + 2 * day),
        ("elsewhere", "DNS:broker.example", now - day, now + day),
    ):
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (folder / "names").write_text(f"subjectAltName={host}\n")
        run("ca", "-batch", "-notext", "-config", "ca.conf", "-cert", "ca.pem", "-keyfile",
            "ca.key", "-extfile", "names", "-in", f"{name}.csr", "-out", f"{name}.pem",
            "-startdate", f"{start:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}")  # fmt: skip
    return folder


RIGHTS = {
    "all": "topic readwrite #",
    "read": "topic read #",
    "write": "topic write #",
    "elsewhere": "topic readwrite site/#",
}
Broker = Callable[[str, str], str]
"""Certificate and rights -> the address of a broker that has them."""


@pytest.fixture
def broker(
    mosquitto: str, certificates: Path, tmp_path: Path
) -> Iterator[Callable[[str, str], str]]:
    with contextlib.ExitStack() as stack:

        def started(certificate: str = "good", rights: str = "all") -> str:
            (tmp_path / "acl").write_text(f"user fleet\n{RIGHTS[rights]}\n")
            subprocess.run(
                ["mosquitto_passwd", "-b", "-c", "passwords", "fleet", PASSWORD],
                cwd=tmp_path, check=True, capture_output=True,
            )  # fmt: skip
            settings = (
                f"allow_anonymous false\npassword_file {tmp_path}/passwords\n"
                f"acl_file {tmp_path}/acl\ncafile {certificates}/ca.pem\n"
                f"certfile {certificates}/{certificate}.pem\n"
                f"keyfile {certificates}/{certificate}.key"
            )
            port = stack.enter_context(open_mosquitto(mosquitto, tmp_path, settings))
            return f"mqtts://fleet@127.0.0.1:{port}"

        yield started


@pytest.fixture
def refused(nursery: Nursery, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must end with 2, one message and no run folder; gives the message."""
    pictures(tmp_path / "pictures", 5)
    scenario(tmp_path, camera("north"))

    def refused(address: str, half: str = "run", password: str = PASSWORD) -> str:
        code, command = nursery.run(
            half, "tiny.yaml", "--broker", address, "--out", "out",
            cwd=tmp_path, environ={VARIABLE: password},
        )  # fmt: skip
        assert code == 2, command.err
        said = command.out + command.err
        assert "Traceback" not in said
        assert PASSWORD not in said
        assert password not in said
        return " ".join(said.split())

    return refused


def test_a_run_over_tls_with_a_private_authority_is_played(
    broker: Broker, certificates: Path, nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 5)
    scenario(tmp_path, camera("north"))
    address = broker("good", "all") + f"?ca={certificates}/ca.pem"
    code, command = nursery.run(
        "run", "tiny.yaml", "--broker", address, "--out", "out",
        cwd=tmp_path, environ={VARIABLE: PASSWORD},
    )  # fmt: skip
    assert code == 0, command.err
    assert len(run_folders(tmp_path / "out")) == 1


@pytest.mark.parametrize("half", ["run", "cameras", "consume"])
def test_a_wrong_authority_is_named_with_its_remedy(
    broker: Broker, certificates: Path, refused: Callable[..., str], half: str
) -> None:
    said = refused(broker("good", "all") + f"?ca={certificates}/other.pem", half)
    assert "is not trusted" in said
    assert "?ca=FILE" in said


def test_without_an_authority_a_private_one_is_not_trusted(
    broker: Broker, refused: Callable[..., str]
) -> None:
    assert "is not trusted" in refused(broker("good", "all"))


@pytest.mark.parametrize(
    ("certificate", "word"), [("expired", "expired"), ("early", "not yet valid")]
)
def test_a_certificate_out_of_its_time_says_so(
    broker: Broker, certificates: Path, refused: Callable[..., str], certificate: str, word: str
) -> None:
    said = refused(broker(certificate, "all") + f"?ca={certificates}/ca.pem")
    assert word in said
    assert "renew it, or set this machine's clock" in said
    assert "?ca=FILE" not in said  # that would not help


def test_a_certificate_of_another_host_says_so(
    broker: Broker, certificates: Path, refused: Callable[..., str]
) -> None:
    said = refused(broker("elsewhere", "all") + f"?ca={certificates}/ca.pem")
    assert "the host as the certificate does" in said


@pytest.mark.parametrize("half", ["run", "cameras", "consume"])
def test_a_wrong_password_is_a_clear_error(
    broker: Broker, certificates: Path, refused: Callable[..., str], half: str
) -> None:
    address = broker("good", "all") + f"?ca={certificates}/ca.pem"
    said = refused(address, half, password="wrong-horse-9231")
    assert "the password" in said
    assert VARIABLE in said


@pytest.mark.parametrize("half", ["run", "cameras"])
@pytest.mark.parametrize("rights", ["read", "elsewhere"])
def test_a_user_who_may_not_write_is_told_which_right_is_missing(
    broker: Broker, certificates: Path, refused: Callable[..., str], half: str, rights: str
) -> None:
    # A broker held up for a second is spoken to in 3.1.1, in which it does not tell.
    address = broker("good", rights) + f"?ca={certificates}/ca.pem&version=5"
    said = refused(address, half)
    assert "the right to write to earlyfire/" in said
    assert "topic readwrite earlyfire/#" in said


def test_a_user_who_may_not_read_is_told_so(
    broker: Broker, certificates: Path, refused: Callable[..., str]
) -> None:
    said = refused(broker("good", "write") + f"?ca={certificates}/ca.pem")
    assert "may this user read its topics?" in said
