"""The only door to child processes: a list argv, a timeout, typed failures, redaction.

Nothing secret may be passed in ``argv`` (any user can read it in /proc): secrets travel by
standard input or by an inherited descriptor.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        done = subprocess.run(
            list(argv),
            input=None if text is None else text.encode(),
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            timeout=timeout_s,
            pass_fds=tuple(pass_fds),
            check=False,
            env=os.environ | {"LC_ALL": "C"} | dict(env or {}),
        )
    except subprocess.TimeoutExpired as error:
        message = f"{_shown(argv)}: no answer within {timeout_s:g} s"
        raise CommandTimeoutError(message) from error
    except OSError as error:
        raise CommandError(f"{argv[0]}: cannot be run: {error.strerror or error}") from error
    completed = Completed(
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )
    if ok_codes is not None and done.returncode not in ok_codes:
        said = (completed.stderr.strip() or completed.stdout.strip())[-_SHOWN_CHARS:]
        raise CommandError(f"{_shown(argv)}: exit code {done.returncode}: {said or 'no output'}")
    return completed


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
