"""A web server that draws: one pipeline, one worker thread, a queue. The standard library is all it needs besides.

    python examples/server.py [--model pocket] [--port 8000]
    curl 'http://127.0.0.1:8000/?prompt=a+red+mushroom&seed=3' --output mushroom.png

Many threads answer requests, and one alone touches the pipeline: a scheduler has one state, and two threads on one
pipeline give wrong pictures. For more at once, start more workers, each with a pipeline of its own.
"""

import argparse
import io
import queue
import threading
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import torch

from shapefirst import guide, load

LONGEST_PROMPT = 500  # characters
MOST_WAITING = 8
PATIENCE = 300  # seconds


class Worker:
    """The one thread that runs the pipeline, and the queue before it."""

    def __init__(self, pipe, budget=0.75, steps=25):
        self.pipe, self.budget, self.steps = pipe, budget, steps
        self.jobs = queue.Queue(MOST_WAITING)
        threading.Thread(target=self._work, daemon=True).start()

    def draw(self, prompt, seed):
        """A PNG and the share of evaluations saved. Raises queue.Full if too many wait already."""
        done = Future()
        self.jobs.put_nowait((prompt, seed, done))
        return done.result(PATIENCE)

    def _work(self):
        while True:
            prompt, seed, done = self.jobs.get()
            try:  # a job that fails says why, and leaves the queue alive
                generator = torch.Generator().manual_seed(seed)
                with guide(self.pipe, budget=self.budget) as evaluations:
                    image = self.pipe(prompt, num_inference_steps=self.steps, generator=generator).images[0]
                png = io.BytesIO()
                image.save(png, format="PNG")
                done.set_result((png.getvalue(), evaluations.saved))
            except Exception as error:
                done.set_exception(error)


def server(worker, port):
    """On this machine's own address: put it behind something that knows its users before others can reach it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = parse_qs(urlsplit(self.path).query)
            prompt, seed = asked.get("prompt", [""])[0].strip(), asked.get("seed", ["0"])[0]
            if not 0 < len(prompt) <= LONGEST_PROMPT or not (seed.isdecimal() and len(seed) < 10):
                self.send_error(400, f"Give prompt= of up to {LONGEST_PROMPT} characters, and seed= as a number")
                return
            try:
                png, saved = worker.draw(prompt, int(seed))
            except queue.Full:
                self.send_error(503, "Too many are waiting: come again")
                return
            except Exception:
                self.log_error("%r failed", prompt)
                self.send_error(500, "It cannot be drawn")
                return
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(png)))
            self.send_header("X-Evaluations-Saved", f"{saved:.2f}")
            self.end_headers()
            self.wfile.write(png)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    print(f"http://127.0.0.1:{given.port}/?prompt=a+red+mushroom")
    server(Worker(load(given.model)), given.port).serve_forever()
