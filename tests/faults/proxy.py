"""A TCP proxy that fails on command: between worker and API, anyone and the broker, anyone and the storage."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["pass", "silent", "down"]
"""silent: accepts, takes bytes, answers nothing, as behind a dropped route. down: refuses, and cuts what is open."""
Action = Literal["count", "lose_request", "lose_answer", "answer_503", "answer", "answer_large", "reset_large"]
"""count: only counts them. answer: with the rule's own bytes. answer_large, reset_large: only over LARGE_BYTES."""
LARGE_BYTES = 20_000
CHUNK = 1 << 16
ANSWER_503 = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"


@dataclass
class Pair:
    client: socket.socket
    server: socket.socket
    request_line: bytes = b""
    """First line of the request that is being answered."""
    lost: bool = False
    """Bytes of either side go nowhere."""
    size: int = 0
    """Bytes of the request so far."""

    def hears(self, data: bytes) -> bytes:
        """First line of the request that `data` begins; empty where it goes on with one."""
        line = data.partition(b"\r\n")[0]
        if not line.endswith(b"HTTP/1.1"):
            self.size += len(data)
            return b""
        self.request_line, self.size = line, len(data)
        return line

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass
class Rule:
    """What happens to requests that have `word` in their first line."""

    word: bytes
    action: Action
    hits: int = 0
    answer: bytes = ANSWER_503


@dataclass
class Proxy:
    """Listens on 127.0.0.1:`port` for `target` (a port of this machine). Close it at the end."""

    target: int
    mode: Mode = "pass"
    rules: list[Rule] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Pair] = {}
        self._closing = False
        self._listener: socket.socket | None = None
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: Mode) -> None:
        """Changes how it behaves from now on. What is open breaks, but for silent, where it hangs."""
        before, self.mode = self.mode, mode
        if mode == "down":
            self._unlisten()
        elif before == "down":
            self._listen()
        if mode == "down" or before == "silent":
            self.cut()

    def strand(self) -> None:
        """What is open stays open and silent for ever, as after a failover; what comes now passes."""
        with self._lock:
            for pair in self._open.values():
                pair.lost = True

    def cut(self) -> None:
        """Breaks what is open now."""
        with self._lock:
            pairs, self._open = list(self._open.values()), {}
        for pair in pairs:
            pair.close()

    def rule(self, word: bytes, action: Action, answer: bytes = ANSWER_503) -> Rule:
        """Holds until `heal`; lose_answer holds for what is being answered now, too."""
        created = Rule(word, action, answer=answer)
        self.rules.append(created)
        return created

    def heal(self) -> None:
        if self.rules:
            self.rules.clear()
            self.cut()
        if self.mode != "pass":
            self.set("pass")

    def close(self) -> None:
        self._closing = True
        self._unlisten()
        self.cut()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _unlisten(self) -> None:
        if self._listener:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = self._connect()
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = Pair(client, server)
        with self._lock:
            self._open[id(pair)] = pair
        threading.Thread(target=self._back, args=(pair,), daemon=True).start()
        self._forth(pair)

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.target), timeout=10)

    def _forth(self, pair: Pair) -> None:
        try:
            while data := pair.client.recv(CHUNK):
                if self.mode == "silent" or pair.lost:
                    continue
                rule = self._rule_for(pair.hears(data), counted=True)
                if rule and rule.action in ("answer_503", "answer"):
                    pair.client.sendall(rule.answer)
                    break
                if self._is_too_large(pair):
                    break
                if rule and rule.action == "lose_request":
                    pair.lost = True
                    continue
                pair.server.sendall(data)
        except OSError:
            pass
        finally:
            self._end(pair)

    def _back(self, pair: Pair) -> None:
        try:
            while data := pair.server.recv(CHUNK):
                rule = self._rule_for(pair.request_line)
                if rule and rule.action == "lose_answer":
                    break
                if self.mode != "silent" and not pair.lost:
                    pair.client.sendall(data)
        except OSError:
            pass
        finally:
            self._end(pair)

    def _is_too_large(self, pair: Pair) -> bool:
        rule = self._rule_for(pair.request_line) if pair.size > LARGE_BYTES else None
        if rule is None or rule.action not in ("answer_large", "reset_large"):
            return False
        rule.hits += 1
        if rule.action == "answer_large":
            pair.client.sendall(rule.answer)
        return True

    def _rule_for(self, line: bytes, *, counted: bool = False) -> Rule | None:
        with self._lock:
            for rule in self.rules:
                if rule.word in line:
                    rule.hits += counted
                    return rule
        return None

    def _end(self, pair: Pair) -> None:
        with self._lock:
            self._open.pop(id(pair), None)
        pair.close()
