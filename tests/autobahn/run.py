"""Run Autobahn's cases 1 to 10 against the real server: ``python -m tests.autobahn.run``, or ``make autobahn``.

The suite is a program for Python 2.7. Where there is one (``PYTHON27`` names it), this installs the suite with what it
needs into ``.autobahn`` and runs it; elsewhere the image ``crossbario/autobahn-testsuite`` runs the same cases with the
`spec` below. Exit status: 0 the cases pass, 1 they do not, 3 there is no Python 2.7.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / ".autobahn"
SUITE = "autobahntestsuite-25.10.1"
PINS = [
    *("autobahn==0.10.9", "Twisted==20.3.0", "zope.interface==5.5.2", "pyOpenSSL==21.0.0", "cryptography==3.3.2"),
    *("service_identity==21.1.0", "idna==2.10", "Jinja2==2.11.3", "MarkupSafe==1.1.1", "unittest2==1.1.0"),
]
FAILING = {
    # A close frame in the middle of a fragmented message: the library answers 1002 instead of echoing the code.
    "7.1.5",
}
NON_STRICT = {
    # The server reads on after a mistake for as long as bytes of it are on their way, and sees it a moment later.
    *(
        "3.2",
        "3.3",
        "3.4",
        "4.1.3",
        "4.1.4",
        "4.1.5",
        "4.2.3",
        "4.2.4",
        "4.2.5",
        "5.15",
        "6.4.1",
        "6.4.2",
        "6.4.3",
        "6.4.4",
    )
}
NO_PYTHON27 = 3


def python27() -> str | None:
    """A Python 2.7."""
    named = os.environ.get("PYTHON27")
    found = (
        [named]
        if named
        else [shutil.which("python2.7"), *map(str, Path.home().glob(".pyenv/versions/2.7*/bin/python"))]
    )
    for path in found:
        if path and subprocess.run([path, "-c", "import sys"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def install(python: str) -> None:
    """Install the suite, once."""
    if (HOME / SUITE).is_dir():
        return
    packages = HOME / "packages"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install", "-t", str(packages)]
    _call([*pip, *PINS])
    _call([*pip, "--no-deps", "wsaccel==0.6.2"])
    for old in packages.glob("txaio*"):
        shutil.rmtree(old)
    _call([*pip, "--no-deps", "txaio==2.1.0"])
    (packages / "zope" / "__init__.py").touch()  # packages in a folder of their own have no namespace otherwise
    download = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d", str(HOME)]
    _call([*download, SUITE.replace("-", "==")])
    shutil.unpack_archive(HOME / f"{SUITE}.tar.gz", HOME)


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})


def spec(port: int, reports: Path) -> dict[str, Any]:
    """What the suite is to do."""
    return {
        "outdir": str(reports),
        "servers": [{"agent": "wsstream", "url": f"ws://127.0.0.1:{port}/ws"}],
        "cases": ["*"],
        "exclude-cases": ["12.*", "13.*"],  # compression, which this server never does
        "exclude-agent-cases": {},
    }


def run(python: str) -> dict[str, dict[str, Any]]:
    """The verdicts by case."""
    reports = HOME / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.autobahn.echo"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stdout is not None
        (HOME / "spec.json").write_text(json.dumps(spec(int(server.stdout.readline()), reports)))
        subprocess.run(
            [python, "-m", "autobahntestsuite.wstest", "-m", "fuzzingclient", "-s", str(HOME / "spec.json")],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": f"{HOME / 'packages'}:{HOME / SUITE}"},
            timeout=600,
        )
    finally:
        server.terminate()
        server.wait(15)
    found: dict[str, dict[str, Any]] = json.loads((reports / "index.json").read_text())["wsstream"]
    return found


def judge(verdicts: dict[str, dict[str, Any]]) -> list[str]:
    """What is worse than it should be."""
    wrong = []
    for case, verdict in verdicts.items():
        behaviors = {verdict["behavior"], verdict["behaviorClose"]}
        if behaviors <= {"OK", "INFORMATIONAL"} or case in FAILING:
            continue
        if behaviors <= {"OK", "INFORMATIONAL", "NON-STRICT"} and case in NON_STRICT:
            continue
        wrong.append(f"{case}: {verdict['behavior']}, close {verdict['behaviorClose']}")
    return wrong


def main() -> int:
    """The exit status."""
    python = python27()
    if python is None:
        print("no Python 2.7 here: set PYTHON27, or use the image crossbario/autobahn-testsuite", file=sys.stderr)
        return NO_PYTHON27
    install(python)
    verdicts = run(python)
    counts: dict[str, int] = {}
    for verdict in verdicts.values():
        counts[verdict["behavior"]] = counts.get(verdict["behavior"], 0) + 1
    wrong = judge(verdicts)
    print(f"{len(verdicts)} cases: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    print("\n".join(wrong) or f"as expected: no failure but {', '.join(sorted(FAILING))}")
    return 1 if wrong or len(verdicts) < 300 else 0


if __name__ == "__main__":
    sys.exit(main())
