"A file server on this machine, for a page that a browser is to show."
import functools, http.server, threading
from contextlib import contextmanager

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args): pass # such as a page that is closed while it loads

@contextmanager
def served(folder): # → where it is, without a slash at the end
    server = Server(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
