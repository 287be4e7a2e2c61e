"""The only door to child processes: a list argv, a timeout, typed failures, redaction.

Nothing secret may be passed in ``argv`` (any user can read it in /proc): secrets travel by
standard input or by an inherited descriptor.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ovn_ipsec.errors import CommandError, CommandTimeoutError
from ovn_ipsec.model.conns import Secret

_SHOWN_CHARS = 400


@dataclass(frozen=True, slots=True)
class Completed:
    """A child process that ended."""

    returncode: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: str | Secret | None = None,
    pass_fds: Sequence[int] = (),
    ok_codes: Sequence[int] | None = (0,),
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end and return its output, decoded leniently.

    ``ok_codes`` None accepts every exit code. A child that exceeds ``timeout_s`` is killed.

    Raises CommandTimeoutError; CommandError: not found, not executable, or an exit code not in
    ``ok_codes``; the message holds the command and the end of its output, never its input.
    """
    text = stdin.reveal() if isinstance(stdin, Secret) else stdin
    try:
        # Not pipes: whack writes line by line, and each line would wake this process.
        with _memory("out") as out, _memory("err") as err, _memory("in", text or "") as given:
            returncode = _run(argv, timeout_s, (given, out, err), tuple(pass_fds), env)
            completed = Completed(returncode, _text(out), _text(err))
    except OSError as error:
        raise CommandError(f"{argv[0]}: cannot be run: {error.strerror or error}") from error
    if ok_codes is not None and returncode not in ok_codes:
        said = (completed.stderr.strip() or completed.stdout.strip())[-_SHOWN_CHARS:]
        raise CommandError(f"{_shown(argv)}: exit code {returncode}: {said or 'no output'}")
    return completed


def _run(
    argv: Sequence[str],
    timeout_s: float,
    files: tuple[BinaryIO, BinaryIO, BinaryIO],
    pass_fds: tuple[int, ...],
    env: Mapping[str, str] | None,
) -> int:
    stdin, stdout, stderr = files
    process = subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        env=os.environ | {"LC_ALL": "C"} | dict(env or {}),
    )
    try:
        if not _ends(process.pid, timeout_s):
            raise CommandTimeoutError(f"{_shown(argv)}: no answer within {timeout_s:g} s")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process.wait()


def _ends(pid: int, timeout_s: float) -> bool:
    """Whether a child ends in time; Popen.wait would look again and again."""
    descriptor = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)


def _memory(name: str, content: str = "") -> BinaryIO:
    """A file that is nowhere but in memory, open at its beginning."""
    file = os.fdopen(os.memfd_create(f"ovn-ipsec-{name}"), "w+b")
    file.write(content.encode())
    file.seek(0)
    return file


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
