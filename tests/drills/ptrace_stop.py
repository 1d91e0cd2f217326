"""Stops one thread of a process while the others run, as a debugger does: the only way to see a hang that no signal causes."""
import ctypes, pathlib, subprocess, sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def stopped_thread(pid, name):
    """Stops the thread with this name until the returned function is called, or the process ends.

    The tracer is a process of its own: this one must not become the parent of a thread that another one waits for.
    """
    tids = [int(path.name) for path in pathlib.Path(f"/proc/{pid}/task").iterdir() if (path / "comm").read_text().strip() == name]
    # The main thread has the name of the process, as have the threads without a name.
    tid = pid if pid in tids else min(tids)
    tracer = subprocess.Popen([sys.executable, __file__, str(tid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if tracer.stdout.readline().strip() != "stopped":
        raise OSError(f"cannot stop the thread {name} of {pid}")

    def end():
        tracer.kill()
        tracer.wait()

    return end


if __name__ == "__main__":
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, int(sys.argv[1]), None, None):
            sys.exit(f"ptrace: error {ctypes.get_errno()}")
    print("stopped", flush=True)
    # Reaps what the kernel reports about the thread, so that its end completes.
    import os
    while True:
        try:
            if os.WIFEXITED(os.waitpid(int(sys.argv[1]), 0x40000000)[1]):
                break
        except ChildProcessError:
            break
