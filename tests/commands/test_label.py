"""The page for labels: what it serves, and to whom. What a person sees of it is in tests/run_output."""

import http.client
import json
import threading

import pytest

from sppo_lightning.__main__ import main
from sppo_lightning.commands.label import LabelServer
from sppo_lightning.io.labels import LabelFolder, Task

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me about <b>the kettle</b>."}]
TEXTS = [
    "It is a kettle.",
    "<script>document.title = 'broken'</script> A kettle\n\nboils " + "water " * 400,
    "\u706f\u53f0",
]


@pytest.fixture
def folder(tmp_path):
    folder = LabelFolder(tmp_path / "labels")
    folder.ask([Task.of(PROMPT, TEXTS[i], TEXTS[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    return folder


@pytest.fixture
def server(folder):
    with LabelServer(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method, path, body=None, key=None, host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    headers = {"Host": host} if host else {}
    connection.request(method, f"{path}?key={key or server.key}", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_labels_go_in_and_tasks_come_out(server, folder):
    assert server.server_address[0] == "127.0.0.1"
    first, second, third = folder.tasks()
    assert ask(server, "POST", "/label", json.dumps({"pair": second, "winner": "tie"}))[0] == 200
    status, body = ask(server, "GET", "/tasks")
    answer = json.loads(body)
    assert (status, answer["labelled"]) == (200, 1)
    assert [task["pair"] for task in answer["tasks"]] == [first, third]
    assert answer["tasks"][0]["messages"] == PROMPT
    assert folder.labels() == {second: "tie"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "GET", "path": "/", "key": "wrong"}, 403),
        ({"method": "GET", "path": "/tasks", "key": "wrong"}, 403),
        ({"method": "GET", "path": "/tasks", "host": "evil.example.org"}, 403),
        ({"method": "POST", "path": "/label", "body": "{}", "key": "wrong"}, 403),
        ({"method": "POST", "path": "/label", "body": "{}", "host": "evil.example.org:80"}, 403),
        ({"method": "GET", "path": "/../tasks.jsonl"}, 404),
        ({"method": "POST", "path": "/tasks", "body": "{}"}, 400),
        ({"method": "POST", "path": "/label", "body": "no json"}, 400),
        ({"method": "POST", "path": "/label", "body": "[]"}, 400),
        ({"method": "POST", "path": "/label", "body": '{"pair": "unknown", "winner": "tie"}'}, 400),
        ({"method": "POST", "path": "/label", "body": '{"pair": ["x"], "winner": "tie"}'}, 400),
        ({"method": "POST", "path": "/label", "body": " " * 20_000}, 400),
    ],
)
def test_what_is_refused(server, folder, request_, status):
    assert ask(server, **request_)[0] == status
    pair = next(iter(folder.tasks()))
    assert ask(server, "POST", "/label", json.dumps({"pair": pair, "winner": "left"}))[0] == 400
    assert folder.labels() == {}


def test_a_malformed_line_is_said(server, folder):
    with folder.labels_file.open("a") as file:
        file.write("no json\n")
    status, body = ask(server, "GET", "/tasks")
    assert status == 500
    assert b"labels.jsonl, line 1: is not JSON" in body


def test_the_verb(folder, tmp_path, capsys):
    assert main(["label", str(tmp_path)]) == 2
    assert "tasks.jsonl: there are no tasks" in capsys.readouterr().err
    assert main(["label", str(folder.path), "--port", "99999"]) == 2
    assert "--port 99999: cannot be used on 127.0.0.1" in capsys.readouterr().err
    assert main(["label"]) == 2
    for pair in folder.tasks():
        folder.answer(pair, "first")
    assert main(["label", str(folder.path)]) == 0
    assert "all 3 pairs in" in capsys.readouterr().out
