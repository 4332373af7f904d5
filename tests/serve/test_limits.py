"""What a server does with more than it can do: queue, deadlines, quotas, keys; and with clients that give up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import Answer, Server, fake, multipart, photo, plain, until

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

KEY, ADMIN, OTHER = "a-key-of-somebody", "the-key-of-an-admin", "another-key-of-one"


def many(server: Server, count: int, body: bytes) -> list[Answer]:
    """The answers to as many requests at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: server.post("/v1/classify", body), range(count)))


def send(server: Server, body: bytes) -> object:
    """A request whose answer nobody has waited for yet: its connection."""
    connection = server.connect()
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
    return connection


def test_more_than_the_queue_holds_is_refused_and_the_rest_answered() -> None:
    with fake("--max-batch", "2", "--max-queue", "3", VIT_HYBRID_FAKE_SECONDS="0.3") as server:
        answers = many(server, 20, photo())
        statuses = sorted(answer.status for answer in answers)
        assert set(statuses) == {200, 503}
        refused = [answer for answer in answers if answer.status == 503]
        assert all(1 <= int(answer.headers["retry-after"]) <= 5 for answer in refused)
        assert server.metric("vit_hybrid_shed_total") == len(refused)
        assert server.metric("vit_hybrid_refusal_seconds_count") == len(refused)
        # A request of more pictures than there are places is refused as a whole.
        assert server.post("/v1/classify", *multipart([photo()] * 4)).status == 503
        assert server.post("/v1/classify", *multipart([photo()] * 3)).status == 200


def test_batches_are_counted_in_pictures() -> None:
    with fake("--max-batch", "4", "--max-queue", "40", VIT_HYBRID_FAKE_SECONDS="0.2") as server:
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(server.post, "/v1/classify", *multipart([photo()] * 3)) for _ in range(6)]
        assert all(one.result().status == 200 for one in asked)
        assert server.metric("vit_hybrid_batch_pictures_sum") == 18
        # Of 18 pictures the first fill a batch or less, and all that gathered meanwhile full ones.
        assert 5 <= server.metric("vit_hybrid_batch_pictures_count") <= 7


def test_an_idle_engine_waits_for_a_batch_where_it_is_told_to() -> None:
    with fake("--max-batch", "4", "--max-wait-ms", "60000") as server:
        assert all(answer.status == 200 for answer in many(server, 4, photo()))
        assert server.metric("vit_hybrid_batch_pictures_count") == 1
    with fake("--max-batch", "4", "--max-wait-ms", "200") as server:
        start = time.monotonic()
        assert server.post("/v1/classify", photo()).status == 200
        assert time.monotonic() - start >= 0.2


def test_a_deadline_is_answered_and_its_picture_goes_into_no_batch() -> None:
    with fake("--max-batch", "1", "--deadline", "0.5", VIT_HYBRID_FAKE_SECONDS="1.5") as server:
        first = send(server, photo())
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        late = server.post("/v1/classify", photo())
        assert (late.status, late.headers["content-type"]) == (504, "application/problem+json")
        assert server.metric("vit_hybrid_queue_pictures") == 0
        until(lambda: server.metric("vit_hybrid_batch_seconds_count") == 1, "the batch does not end")
        assert server.metric("vit_hybrid_batch_pictures_count") == 1
        first.close()


def test_who_gives_up_takes_no_place_and_no_part_in_a_batch() -> None:
    with fake("--max-batch", "8", "--max-queue", "6", VIT_HYBRID_FAKE_SECONDS="1") as server:
        first = send(server, photo())
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        others = [send(server, photo()) for _ in range(6)]
        until(lambda: server.metric("vit_hybrid_queue_pictures") == 6, "they do not wait")
        for connection in others[:5]:
            connection.close()
        until(lambda: server.metric("vit_hybrid_queue_pictures") == 1, "they still wait")
        assert server.metric("vit_hybrid_cancelled_total") == 5
        assert server.post("/v1/classify", photo()).status == 200
        assert server.metric("vit_hybrid_batch_pictures_sum") == 3
        assert others[5].recv(100).startswith(b"HTTP/1.1 200")
        first.close()
        others[5].close()


def test_many_that_give_up_while_the_engine_is_busy_leave_room_for_others() -> None:
    with fake("--max-batch", "1", "--max-queue", "3", VIT_HYBRID_FAKE_SECONDS="1.5") as server:
        first = send(server, photo())
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        for round_ in range(1, 6):
            others = [send(server, photo()) for _ in range(3)]
            until(lambda count=3 * round_: server.metric("vit_hybrid_decode_seconds_count") > count, "not decoded")
            for connection in others:
                connection.close()
            until(lambda: server.metric("vit_hybrid_queue_pictures") == 0, "they still wait")
        assert server.post("/v1/classify", photo()).status == 200
        first.close()


def test_an_error_in_the_model_fails_its_batch_and_no_other() -> None:
    with fake("--max-batch", "1", "--max-queue", "50") as server:
        with ThreadPoolExecutor(8) as pool:
            bodies = [plain("red") if position % 3 == 0 else photo(position) for position in range(24)]
            statuses = list(pool.map(lambda body: server.post("/v1/classify", body).status, bodies))
        assert statuses == [500 if position % 3 == 0 else 200 for position in range(24)]
        assert "red.py" not in str(server.log) + str(server.post("/v1/classify", plain("red")).body)
        said = server.post("/v1/classify", plain("lime"))  # of which the model says something that cannot be written
        assert (said.status, b"green.py" in said.body) == (500, False)
        assert server.post("/v1/classify", photo()).status == 200


def test_bodies_of_all_requests_together_have_a_limit() -> None:
    with fake("--max-body-mb", "1", "--max-buffered-mb", "1.5", "--max-queue", "50") as server:
        slow = [server.connect() for _ in range(2)]
        for connection in slow:
            connection.sendall(
                b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"x" * 800_000
            )
        told = [connection.recv(100)[:12] for connection in slow if _has_answer(connection)]
        assert told == [b"HTTP/1.1 503"]
        for connection in slow:
            connection.close()
        until(lambda: server.metric("vit_hybrid_open_requests") == 1, "they are still held")
        assert server.post("/v1/classify", photo()).status == 200


def _has_answer(connection: object) -> bool:
    import select

    return bool(select.select([connection], [], [], 2)[0])


def test_many_requests_leave_nothing_behind() -> None:
    """Answered, refused for what they are, refused for want of room, and given up."""
    kinds = [photo(size=(200, 200)), b"text" * 3000, *[photo(size=(200, 200))] * 2]
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    with fake("--max-queue", "16", "--access-log-rate", "1") as server:

        def ask(rounds: int) -> None:
            for number in range(rounds):
                with server.connect() as connection:
                    requests = [head % len(body) + body for body in kinds * 4]
                    connection.sendall(b"".join(requests))
                    answer = b""
                    while answer.count(b"HTTP/1.1 ") < len(requests) and number % 8:  # else it is given up
                        part = connection.recv(1 << 16)
                        assert part
                        answer += part
            many(server, 24, multipart([kinds[0]] * 4)[0])  # of a type that this is not
            assert {answer.status for answer in many(server, 24, kinds[0])} <= {200, 503}

        ask(30)
        before = server.megabytes()
        ask(90)
        assert server.megabytes() < 1.02 * before + 1
        until(lambda: server.metric("vit_hybrid_open_requests") == 1, "requests are left over")
        assert server.metric("vit_hybrid_queue_pictures") == 0


def test_connections_have_a_limit() -> None:
    with fake("--max-connections", "2") as server:
        held = [server.connect()]
        assert server.get("/healthz").status == 200  # the second
        held.append(server.connect())
        until(lambda: server.ask("GET", "/healthz").status == 503, "it takes more")
        for connection in held:
            connection.close()
        until(lambda: server.ask("GET", "/healthz").status == 200, "it takes no more")


class TestKeys:
    def test_who_has_none_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_text(f"ann {KEY} quota=3  # a remark\n\nroot {ADMIN} admin\n")
        with fake("--api-key-file", str(file), "--access-log-rate", "1000", "--quota", "12") as server:
            for headers in ({}, {"Authorization": f"Bearer {OTHER}"}, {"Authorization": KEY}, {"X-API-Key": ""}):
                answer = server.ask("POST", "/v1/classify", photo(), headers)
                assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert server.get("/healthz").status == server.get("/readyz").status == server.get("/metrics").status == 200
            assert server.get("/v1/model", Authorization=f"Bearer {KEY}").status == 200
            assert server.get("/page/settings.json").json["needs_key"] is True

            # Three pictures a minute, however many requests they come in; what is refused counts for nothing.
            ask = lambda count, key: server.post("/v1/classify", *multipart([photo()] * count), **{"X-API-Key": key})  # noqa: E731
            assert ask(4, KEY).status == 429
            assert ask(2, KEY).status == 200
            refused = ask(2, KEY)
            assert refused.status == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 20
            assert ask(1, KEY).status == 200
            assert ask(1, KEY).status == 429
            assert all(ask(4, ADMIN).status == 200 for _ in range(3))
            assert ask(4, ADMIN).status == 429  # whose line says nothing, so that the server's quota holds

            # Another file counts from the next look on; one that is none is not taken.
            file.write_text(f"bob {OTHER}\n")
            until(lambda: ask(1, OTHER).status == 200, "the keys are not read again")
            server.wait_for("keys read again")
            assert ask(1, ADMIN).status == 401
            file.write_text("bob short\n")
            told = server.wait_for("keys not read")
            assert told["reason"].startswith("keys, line 1 has no key of 16")
            assert told["level"] == "error"
            assert ask(1, OTHER).status == 200
            file.write_text(f"bob {ADMIN}\n")
            until(lambda: ask(1, ADMIN).status == 200, "the keys are not read again after a file that was none")
            names = {"ann", "root", "bob", None}
            until(lambda: {line.get("key") for line in server.events("request")} >= names, "some are not logged")
            log = str(server.log)
            assert KEY not in log
            assert OTHER not in log

    def test_a_reload_needs_one_that_is_an_admins(self, tmp_path: Path) -> None:
        file, broken = tmp_path / "keys", tmp_path / "broken"
        file.write_text(f"ann {KEY}\nroot {ADMIN} admin\n")
        with fake("--api-key-file", str(file), VIT_HYBRID_FAKE_BROKEN=str(broken)) as server:
            reload = lambda key: server.ask("POST", "/v1/admin/reload", b"", {"X-API-Key": key})  # noqa: E731
            assert (reload("").status, reload(KEY).status) == (401, 403)
            workers = server.children()
            stop = threading.Event()
            statuses: list[int] = []

            def ask() -> None:
                while not stop.is_set():
                    statuses.append(server.post("/v1/classify", photo(), **{"X-API-Key": KEY}).status)

            asking = [threading.Thread(target=ask) for _ in range(3)]
            for thread in asking:
                thread.start()
            answer = reload(ADMIN)
            assert (answer.status, answer.json["version"]) == (200, 2)
            until(lambda: not set(server.children()) & set(workers), "the workers before are still there")
            broken.touch()
            refused = reload(ADMIN)
            assert refused.status == 422
            assert str(tmp_path) not in refused.json["detail"]
            stop.set()
            for thread in asking:
                thread.join()
            assert set(statuses) == {200}
            told = server.wait_for("reload refused")
            assert (told["level"], told["reason"]) == ("error", "broken: no such model")
            assert len(server.children()) == 1
            assert server.get("/v1/model", **{"X-API-Key": KEY}).json["version"] == 2
            broken.unlink()
            assert reload(ADMIN).json["version"] == 3
            measured = server.get("/metrics").body.decode()
            assert "\nvit_hybrid_workers_ready 1.0\n" in measured  # that of the model which answers now
            for outcome, count in (("done", 2), ("refused", 1)):
                assert f'vit_hybrid_reloads_total{{outcome="{outcome}"}} {count}.0\n' in measured

    def test_without_keys_nobody_may_reload(self) -> None:
        with fake() as server:
            assert server.ask("POST", "/v1/admin/reload", b"").status == 403
