"""`python -m benchmarks serve`: all answers are right on a few requests, and wrong ones are found."""

from pathlib import Path

import pytest

from benchmarks.serve import KINDS, Load
from benchmarks.serve_clients import BAD, SLOW, Answer, Bad, Client
from tests.benchmarks.test_smoke import run


@pytest.mark.benchmarks
def test_all_answers_are_right(exported_onnx: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    options = ["--model", exported_onnx, "--requests", 64, "--clients", 4, "--rounds", 1, "--json", record]
    values = run(record, "serve", *options)
    assert values["problems"] == []
    expected = {f"{kind}: {request.status}" for kind, request in (BAD | SLOW).items()}
    assert values["figures"]["answers"].keys() == expected | {"good: 200"}
    assert [len(speeds) for turns in values["figures"]["speed"].values() for speeds in turns.values()] == 4 * [1]


class Wrong(Client):
    """Gets the same answer to each request."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def post(self, body: bytes, content_type: str = "image/jpeg", query: str = "") -> Answer:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "problems"),
    [
        (Answer(200, b"picture"), []),
        (Answer(200, b"other"), ["request 1: 200 "]),
        (Answer(503, b"", "busy"), ["request 1: 503 busy"]),
    ],
)
def test_wrong_pictures_are_problems(answer: Answer, problems: list[str]) -> None:
    load = Load(0, [b"photo"] * KINDS, [b"picture"] * KINDS, 1)
    load.good(Wrong(answer), 1)
    assert load.problems == problems


@pytest.mark.parametrize(
    ("answer", "problems"),
    [
        (Answer(400, b"", "reason"), []),
        (Answer(400, b""), ["kind: 400 "]),
        (Answer(500, b"", "reason"), ["kind: 500 reason"]),
    ],
)
def test_bad_requests_need_their_status_and_a_reason(answer: Answer, problems: list[str]) -> None:
    load = Load(0, [b"photo"], [], 1)
    load.bad("kind", Bad(400, lambda port, photo: answer))
    assert load.problems == problems
