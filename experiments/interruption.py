"""Ends the process on Ctrl-C and on SIGTERM, whatever it is doing."""

import os
import signal
import sys
import threading

# Of these, a run that was stopped continues; of all others, whole results are kept.
_CONTINUED = {"compare", "workers"}


def watch() -> None:
    """Makes Ctrl-C end this process with 130 and one line, and SIGTERM with 143 and none, at once and at any time.

    Python would raise `KeyboardInterrupt` in the main thread. There a callback of JAX's may swallow it, a compilation
    delays it, and what it unwinds ends in an interpreter that is taken down while other threads still compute, which
    crashes. So a thread of its own waits for the signal and ends the process where it stands, as a kill would: what is
    written survives both. Output needs no flush, since whatever is printed is flushed at once.
    """
    # Whoever starts a process with signals ignored, as `nohup` and scripts do, wants them ignored.
    signals = {number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN}
    # Threads that start from now on inherit it: none but the one that waits gets these signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_end, args=(signals,), daemon=True).start()


def _end(signals):
    number = signal.sigwait(signals)
    try:
        if sys.stdout is not None and sys.stdout.isatty():
            # Below the progress bars, which hide the cursor.
            os.write(sys.stdout.fileno(), b"\n" if os.environ.get("TERM") == "dumb" else b"\x1b[?25h\n")
        if sys.stderr is not None and number == signal.SIGINT:
            kept = "the same command continues" if _CONTINUED & set(sys.argv[1:2]) else "what is finished is kept"
            os.write(sys.stderr.fileno(), f"interrupted; {kept}\n".encode())
    finally:
        os._exit(128 + number)
