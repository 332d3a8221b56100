"""A local server with the part of the protocol that the W&B client needs; records all requests.

W&B's own server is not a package. Queries are answered by the name of their operation; an unknown one
is refused and recorded, so that tests show what a newer client needs.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import yaml

ENTITY = "somebody"
API_KEY = "0" * 40


@dataclass
class RunRecord:
    """What the server knows of one run."""

    name: str
    project: str
    display_name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Rows of logged values by their number."""
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    sweep: str | None = None
    exit_code: int | None = None


class WandbServer:
    """A context manager; ``environment`` points clients to it.

    Args:
        trials: settings for an agent's runs, in order; then the agent is told to stop.
    """

    def __init__(self, trials: tuple[dict[str, Any], ...] = ()) -> None:
        self.runs: dict[str, RunRecord] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.unknown: list[str] = []
        """Requests that had no answer."""
        self._trials = list(trials)
        self._handed_out = 0
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "Viewer": lambda _: {"viewer": _VIEWER},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": {"organization": None}},
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_run,
            "CreateRunFiles": self._create_files,
            "UpsertSweep": self._upsert_sweep,
            "SweepWithRuns": self._sweep_with_runs,
            "CreateAgent": lambda _: {"createAgent": {"agent": {"id": "agent"}}},
            "Heartbeat": self._heartbeat,
        }

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a client."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, "WANDB_ENTITY": ENTITY}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON for a request."""
        with self._lock:
            if path == "/graphql":
                request = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
                operation = self._operations.get(found[1] if found else "")
                if operation is not None:
                    return 200, {"data": operation(request.get("variables") or {})}
                self.unknown.append(request["query"])
            elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                self._stream(self.runs[stream[1]], json.loads(body))
                return 200, {}
            elif method == "PUT" and (upload := re.fullmatch(r"/storage/([^/]+)/(.+)", path)):
                self.runs[upload[1]].files[unquote(upload[2])] = body
                return 200, {}
            elif path.startswith("/sdk/otel/"):
                # What the client says of itself.
                return 200, {}
            else:
                self.unknown.append(f"{method} {path}")
        return 400, {"errors": [{"message": "the test's server does not know this request"}]}

    def _upsert_run(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"] or given["id"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, RunRecord(name, given["project"] or "uncategorized"))
        run.display_name = given.get("displayName") or run.display_name or name
        run.sweep = given.get("sweep") or run.sweep
        run.config |= json.loads(given.get("config") or "{}")
        run.summary |= json.loads(given.get("summaryMetrics") or "{}")
        bucket = {
            "id": name, "name": name, "displayName": run.display_name, "description": None,
            "config": json.dumps(run.config), "sweepName": run.sweep, "historyLineCount": len(run.history),
            "project": _project(run.project),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = None
        if run is not None:
            # By the client's own record of itself it knows a run that was begun.
            own = run.config.get("_wandb", {}).get("value", {})
            tail = [json.dumps(run.history[index]) for index in sorted(run.history)[-1:]]
            bucket = {
                "id": run.name, "name": run.name, "summaryMetrics": json.dumps(run.summary),
                "displayName": run.display_name, "logLineCount": 0, "historyLineCount": len(run.history),
                "eventsLineCount": 0, "historyTail": json.dumps(tail), "eventsTail": "[]",
                "config": json.dumps(run.config), "tags": [], "notes": None,
                "wandbConfig": json.dumps({"t": own.get("t")} if "t" in own else {}),
            }  # fmt: skip
        return {"model": _project(given["project"]) | {"bucket": bucket}}

    def _create_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/{given['run']}/{quote(name)}"}
            for name in given["files"]
        ]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _stream(self, run: RunRecord, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            for index, line in enumerate(history["content"], history["offset"]):
                run.history[index] = json.loads(line)
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def _upsert_sweep(self, given: dict[str, Any]) -> dict[str, Any]:
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = yaml.safe_load(given["config"])
        return {
            "upsertSweep": {
                "sweep": {"name": name, "project": _project(given["projectName"] or "uncategorized")},
                "configValidationWarnings": [],
            }
        }

    def _sweep_with_runs(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["sweep"]
        sweep = {
            "id": name, "name": name, "method": self.sweeps[name]["method"], "state": "RUNNING",
            "description": None, "config": yaml.safe_dump(self.sweeps[name]), "createdAt": None,
            "heartbeatAt": None, "updatedAt": None, "earlyStopJobRunning": False, "bestLoss": None,
            "controller": None, "scheduler": None, "runs": {"edges": []},
        }  # fmt: skip
        return {"project": {"sweep": sweep}}

    def _heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        if json.loads(given["runState"]):
            # The agent is at work.
            commands: list[dict[str, Any]] = []
        elif self._handed_out == len(self._trials):
            commands = [{"type": "exit"}]
        else:
            settings = self._trials[self._handed_out]
            self._handed_out += 1
            arguments = {name: {"value": value} for name, value in settings.items()}
            run = f"trial{self._handed_out}"
            commands = [{"type": "run", "run_id": run, "program": None, "args": arguments}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}


_VIEWER = {
    "id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}
}  # fmt: skip


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "entity": {"id": ENTITY, "name": ENTITY}}


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no error of the test."""


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = server.answer(self.command, self.path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
