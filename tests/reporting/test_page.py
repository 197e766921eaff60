"""The page of one run and of several."""

import re
from html import escape
from html.parser import HTMLParser

import pytest

from sppo_lightning.__main__ import main
from sppo_lightning.reporting.figures import PAGE_INK, on_paper
from sppo_lightning.reporting.page import render
from sppo_lightning.reporting.record import Example, RunRecord, read_run


class Strict(HTMLParser):
    """Every element is closed in its turn, and every id is there once."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect", "stop"})

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.tags = [], [], []
        self.feed(page)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def rendered(finished_run):
    return render([read_run(finished_run.root)])


def test_the_page_stands_alone(rendered):
    page, _ = rendered
    tags = Strict(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "iframe", "img", "object")]
    for _, attrs in tags:
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    assert not re.findall(r"url\((?!#)", page)
    assert PAGE_INK not in page


def test_every_picture_has_its_numbers_and_a_name_for_those_who_do_not_see_it(rendered):
    page, pictures = rendered
    keys = [picture.key for picture in pictures]
    assert {"win_rates", "gaps", "payoff", "log_ratios", "lengths", "diversity", "judge"} <= set(keys)
    assert page.count("<details><summary>Numbers</summary>") == len(pictures)
    for picture in pictures:
        assert f'aria-label="{escape(picture.title)}"' in page
        assert picture.table.rows
        assert on_paper(picture.svg).startswith("<svg")


def test_numbers_answers_and_tokens_are_those_of_the_run(finished_run, rendered):
    page, _ = rendered
    for index, rate in finished_run.metrics("round/win_rate_vs_start").items():
        assert f'<th scope="row">{index}</th><td>{rate:.3f} [' in page
    run = read_run(finished_run.root)
    for example in run.examples:
        assert example.prompt in page
        for policy, answer in example.answers.items():
            assert policy in page
            assert answer in page
    sample = run.token_ratios[2][0]
    first, ratio = sample["tokens"][0], sample["log_ratios"][0]
    assert re.search(
        rf'title="{re.escape(f"{ratio:+.3f}")}"[^>]*>{re.escape(first)}', page.replace("&lt;", "<").replace("&gt;", ">")
    )


def test_what_texts_say_is_text(tmp_path):
    run = RunRecord(
        path=tmp_path,
        examples=(Example(prompt="<script>alert(1)</script>", answers={"start": "<img src=x>"}),),
        settings={"model.policy": "https://me:secret@example.org/p"},
    )
    page, _ = render([run])
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "secret" not in page


def test_a_mixture_of_one_policy_is_called_by_its_name(tmp_path):
    payoff = {"names": ["start", "round_000"], "win_rates": [[0.5, 0.2], [0.8, 0.5]]}
    for weights, alone in (((0.0, 1.0), True), ((0.4, 0.6), False)):
        mixture = {
            "members": dict(zip(payoff["names"], weights, strict=True)),
            "weighting": "payoff",
            "reason": "confirmed",
        }
        page, (picture,) = render([RunRecord(path=tmp_path, mixture=mixture, payoff=payoff)])
        assert ("The mixture is round_000 alone." in picture.caption) == alone
        assert ("The mixture is round_000 alone: it has all the weight (payoff)" in page) == alone


def test_several_runs_side_by_side(run_folder):
    one, two = (
        run_folder(
            name, {"round/win_rate_vs_start": {0: rate, 1: rate + 0.1}}, **{"config.yaml": f"data: {{eta: {rate}}}"}
        )
        for name, rate in (("one", 0.5), ("two", 0.7))
    )
    page, pictures = render([read_run(one), read_run(two)])
    Strict(page)
    (picture,) = pictures
    assert picture.table.columns == ("round", "one", "two")
    assert picture.table.rows == (("0", "0.500", "0.700"), ("1", "0.600", "0.800"))
    assert "one: 0.5, two: 0.7" in page


def test_an_empty_run_is_a_page(run_folder):
    page, pictures = render([read_run(run_folder())])
    assert pictures == []
    assert "No round is finished yet" in page


def test_the_command(run_folder, tmp_path, capsys, monkeypatch):
    one, two = (run_folder(name, {"round/kl_to_start": {0: 1.0}}) for name in ("one", "two"))
    assert main(["report", str(one)]) == 0
    assert (one / "report.html").is_file()
    assert main(["report", str(one), str(two), "--out", str(tmp_path / "both.html")]) == 0
    assert "2 runs: one, two" in (tmp_path / "both.html").read_text(encoding="utf-8")
    assert str(tmp_path / "both.html") in capsys.readouterr().out
    for wrong in (["report"], ["report", str(tmp_path / "none")], ["report", str(one), "--uot", "x"]):
        assert main(wrong) == 2
        assert capsys.readouterr().err.startswith("error: ")
