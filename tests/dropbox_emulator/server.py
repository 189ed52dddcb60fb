"""The emulator's process: HTTPS, tokens and scopes, faults, counters, and a control call for tests.

    python -m tests.dropbox_emulator.server PORT CERTIFICATE_FOLDER

Accounts are made by the control call; each has a refresh token of its own, and access tokens name it.
"""

import base64
import json
import secrets
import socket
import ssl
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from typing import Any, ClassVar
from urllib.parse import parse_qs

from tests.dropbox_emulator.faults import Fault, FaultPlan, Rule
from tests.dropbox_emulator.namespace import Json, Namespace, Refused, TooManyWrites
from tests.dropbox_emulator.routes import SCOPES, BadInput, Routes, too_many_writes

ALL_SCOPES = ("files.content.read", "files.content.write", "files.metadata.read")
MAX_ARG_HEADER = 16 << 10
"""Bytes; what common front ends let pass."""


class Account:
    """One Dropbox account that has authorized one app."""

    def __init__(self, refresh_token: str, app_key: str, app_secret: str) -> None:
        self.refresh_token, self.app_key, self.app_secret = refresh_token, app_key, app_secret
        self.scopes = set(ALL_SCOPES)
        self.code = ""
        self.token_life_s = 14_400.0
        self.tokens: dict[str, float] = {}
        self.latency_s = 0.0
        self.namespace = Namespace(refresh_token)
        self.routes = Routes(self.namespace)
        self.faults = FaultPlan()
        self.calls: list[tuple[str, int]] = []
        self._lock = threading.Lock()

    def new_token(self) -> Json:
        token = f"sl.{self.refresh_token}.{secrets.token_hex(8)}"
        self.tokens[token] = monotonic() + self.token_life_s
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": int(self.token_life_s),
            "scope": " ".join(sorted(self.scopes)),
            "uid": "1",
            "account_id": f"dbid:{self.refresh_token}",
        }

    def log(self, route: str, status: int) -> None:
        with self._lock:
            self.calls.append((route, status))


class Broken(Exception):
    """The connection is to be reset."""


class Answer(Exception):
    """What to send."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers or {}
        super().__init__(status)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    accounts: ClassVar[dict[str, Account]] = {}

    def setup(self) -> None:
        self.request.do_handshake()
        super().setup()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.path == "/control":
                self._control(json.loads(body))
            elif self.path == "/oauth2/token":
                self._token({name: values[0] for name, values in parse_qs(body.decode()).items()})
            elif self.path.startswith("/2/"):
                self._route(self.path[3:], body)
            raise Answer(404, "no such page")
        except Answer as answer:
            self._send(answer)
        except Broken:
            self._reset()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing."""

    # Routes

    def _route(self, name: str, body: bytes) -> None:
        header = self.headers.get("Dropbox-API-Arg")
        if header is not None and len(header) > MAX_ARG_HEADER:
            raise Answer(431, "the header is too large")
        arg = json.loads(header if header is not None else body or b"null") or {}
        account = self._account(name, arg)
        status, answer = self._serve(account, name, arg, body if header is not None else b"")
        account.log(name, status)
        raise answer

    def _serve(self, account: Account, name: str, arg: Json, body: bytes) -> tuple[int, Exception]:
        if account.latency_s:
            sleep(account.latency_s)
        rule = account.faults.next_for(name)
        early = _before(rule, name) if rule else None
        if early is not None:
            return (early.status if isinstance(early, Answer) else 0), early
        answer = self._do(account, name, arg, body)
        if rule is None or rule.fault is Fault.SLOW:
            return answer.status, answer
        if rule.fault is Fault.DONE_SERVER_ERROR:
            return 500, Answer(500, "internal error")
        if rule.fault is Fault.ANSWER_TORN:
            answer.headers["torn"] = "yes"
            return 0, answer
        return 0, Broken()

    def _do(self, account: Account, name: str, arg: Json, body: bytes) -> Answer:
        try:
            if name == "files/download":
                return self._download(account, arg)
            return Answer(200, account.routes.call(name, arg, body))
        except Refused as refused:
            return _refusal(refused)
        except BadInput as error:
            return Answer(400, f'Error in call to API function "{name}": {error}')
        except TooManyWrites:
            return _limited("too_many_write_operations", 1)

    def _download(self, account: Account, arg: Json) -> Answer:
        node = account.namespace.download(arg["path"])
        data = node.content or b""
        result = {name: value for name, value in node.metadata().items() if name != ".tag"}
        headers = {"Dropbox-API-Result": json.dumps(result)}
        wanted = self.headers.get("Range", "")
        if not wanted:
            return Answer(200, data, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= len(data):
            return Answer(416, b"", headers)
        return Answer(206, data[int(first) : int(last) + 1 if last else None], headers)

    def _account(self, name: str, arg: Json) -> Account:
        """Whose call it is, if the token and its scopes allow it."""
        if name == "files/list_folder/longpoll":
            cursor = arg.get("cursor", "")
            owner = (a for a in self.accounts.values() if a.namespace.owns(cursor))
            account = next(owner, None)
            if account is None:
                raise _refusal(Refused("reset"))
            return account
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        account = self.accounts.get(token.split(".")[1] if token.count(".") == 2 else "")
        if account is None or token not in account.tokens:
            raise _unauthorized("invalid_access_token")
        if account.tokens[token] < monotonic():
            account.log(name, 401)
            raise _unauthorized("expired_access_token")
        scope = SCOPES.get(name, "files.content.read" if name == "files/download" else "")
        if scope and scope not in account.scopes:
            account.log(name, 401)
            raise _unauthorized("missing_scope", required_scope=scope)
        return account

    def _token(self, form: dict[str, str]) -> None:
        if form.get("grant_type") == "authorization_code":
            owner = (a for a in self.accounts.values() if a.code and a.code == form.get("code"))
            account = next(owner, None)
        else:
            account = self.accounts.get(form.get("refresh_token", ""))
        if account is None:
            raise Answer(400, {"error": "invalid_grant", "error_description": "the token is malformed"})
        if (form.get("client_id"), form.get("client_secret")) != (account.app_key, account.app_secret):
            raise Answer(400, {"error": "invalid_client", "error_description": "invalid id or secret"})
        account.log("oauth2/token", 200)
        answer = account.new_token()
        if form["grant_type"] == "authorization_code":
            account.code = ""
            answer["refresh_token"] = account.refresh_token
        raise Answer(200, answer)

    # Control

    def _control(self, command: Json) -> None:
        name = command.pop("account")
        if command.pop("do") == "make":
            self.accounts[name] = Account(name, command["app_key"], command["app_secret"])
            raise Answer(200, {})
        account = self.accounts[name]
        for key, value in command.get("set", {}).items():
            owner = next(o for o in (account, account.namespace, account.routes) if hasattr(o, key))
            setattr(owner, key, set(value) if key == "scopes" else value)
        for rule in command.get("faults", ()):
            account.faults.add(Rule(**{**rule, "fault": Fault(rule["fault"])}))
        if command.get("clear_faults"):
            account.faults.clear()
        if command.get("reset_cursors"):
            account.namespace.reset_cursors()
        if command.get("expire_tokens"):
            account.tokens = dict.fromkeys(account.tokens, 0.0)
        answer: Json = {"calls": account.calls, "most_writers": account.namespace.most_writers}
        with account.namespace.writing():
            for path, text in command.get("put", {}).items():
                data = base64.b64decode(text) if command.get("base64") else text.encode()
                node = account.namespace.put({"path": path, "mode": "overwrite"}, data)
                answer.setdefault("revs", {})[path] = node.rev
            for path in command.get("delete", ()):
                account.namespace.delete(path, None)
            for source, target in command.get("move", {}).items():
                account.namespace.move({"from_path": source, "to_path": target})
        if command.get("tree"):
            answer["tree"] = {
                node.path: node.content.decode("latin-1")
                for node in account.namespace.nodes.values()
                if node.content is not None
            }
        if command.get("forget_calls"):
            account.calls, account.namespace.most_writers = [], 0
        raise Answer(200, answer)

    # HTTP

    def _send(self, answer: Answer) -> None:
        body, kind = answer.body, "application/json"
        if isinstance(body, str):
            body, kind = body.encode(), "text/plain; charset=utf-8"
        elif isinstance(body, bytes):
            kind = "application/octet-stream"
        else:
            body = json.dumps(body).encode()
        torn = answer.headers.pop("torn", "")
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Dropbox-Request-Id", secrets.token_hex(8))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if torn else body)
        self.wfile.flush()
        if torn:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)


def _before(rule: Rule, name: str) -> Exception | None:
    """What a rule makes of a call before anything is done."""
    match rule.fault:
        case Fault.RESET:
            return Broken()
        case Fault.SERVER_ERROR:
            return Answer(500, "internal error")
        case Fault.TOO_MANY_REQUESTS:
            return _limited("too_many_requests", rule.seconds)
        case Fault.TOO_MANY_REQUESTS_TEXT:
            return Answer(429, "too many requests", {"Retry-After": f"{rule.seconds:.0f}"})
        case Fault.TOO_MANY_WRITES:
            return _limited("too_many_write_operations", rule.seconds)
        case Fault.TOO_MANY_WRITES_409:
            refused = too_many_writes(name)
            return _refusal(refused) if refused else _limited("too_many_write_operations", 1)
        case Fault.EXPIRED:
            return _unauthorized("expired_access_token")
        case Fault.SLOW:
            sleep(rule.seconds)
    return None


def _refusal(refused: Refused) -> Answer:
    return Answer(409, {"error_summary": refused.summary, "error": refused.error})


def _limited(reason: str, seconds: float) -> Answer:
    error = {"reason": {".tag": reason}, "retry_after": round(seconds)}
    body = {"error_summary": f"{reason}/...", "error": error}
    return Answer(429, body, {"Retry-After": str(round(seconds))})


def _unauthorized(tag: str, **members: str) -> Answer:
    return Answer(401, {"error_summary": f"{tag}/...", "error": {".tag": tag, **members}})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def main(port: int, folder: Path) -> None:
    server = Server(("127.0.0.1", port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Ends with whoever started it, however that ends: then there is nobody at the other end.
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
