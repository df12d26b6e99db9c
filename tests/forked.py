"""Python processes for tests, without the seconds that each would take to import PyTorch.

Each is forked from a process that has imported the package and done nothing else. Where there is no fork, on
Windows, a new Python runs the code instead; as it does for whatever is about a new Python: its locale, its
streams, its end."""
import multiprocessing, os, signal, socket, subprocess, sys, threading

PRELOADED = ['shakespeare_ffn.explain', 'shakespeare_ffn.training', 'shakespeare_ffn.explore',
             'torch._dynamo', 'matplotlib.figure'] # what optimisers and curves import when they are made

def run(code, args, env, out, err): # in the new process; out, err: the ends of pipes
    for name, pipe, number in ('stdout', out, 1), ('stderr', err, 2):
        os.dup2(pipe.fileno(), number)
        pipe.close()
        setattr(sys, name, open(number, 'w', buffering=1, encoding='utf-8', closefd=False))
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ['-c', *args]
    signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background jobs ignore it
    exec(compile(code, '<forked>', 'exec'), {'__name__': '__main__'})

class Forked:
    "As much of a `subprocess.Popen` as tests use."
    def __init__(self, code, args, env):
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(PRELOADED)
        (out, to_out), (err, to_err) = (context.Pipe(duplex=False) for _ in range(2))
        self.process = context.Process(target=run, args=(code, args, env, to_out, to_err), daemon=True)
        self.process.start()
        to_out.close()
        to_err.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno()), encoding='utf-8') for end in (out, err))

    pid = property(lambda self: self.process.pid)
    returncode = property(lambda self: self.process.exitcode)

    def poll(self): return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.returncode is None: raise subprocess.TimeoutExpired('forked', timeout)
        return self.returncode

    def communicate(self, timeout=None):
        found = {}
        def read(name): found[name] = getattr(self, name).read()
        readers = [threading.Thread(target=read, args=[name], daemon=True) for name in ('stdout', 'stderr')]
        for reader in readers: reader.start()
        self.wait(timeout)
        for reader in readers: reader.join()
        return found['stdout'], found['stderr']

    def send_signal(self, which):
        if self.poll() is None: os.kill(self.pid, which)

    def kill(self): self.process.kill()

def python(code, *args, env=None):
    "Start Python code with arguments; its output is to be read as text."
    args, env = [str(a) for a in args], dict(os.environ if env is None else env)
    if 'forkserver' in multiprocessing.get_all_start_methods(): return Forked(code, args, env)
    return subprocess.Popen([sys.executable, '-c', code, *args], env=env, text=True, encoding='utf-8',
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def ranks(n) -> list:
    "The environments of `n` processes that compute together, as torchrun makes them."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    where = dict(WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    return [os.environ | where | dict(RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(n)]
