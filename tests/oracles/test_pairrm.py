"""PairRM against the real llm-blender; truncation, batches and orders; refusals."""

import importlib.util
import json
import random
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import Pair, PairRM, llm_blender
from sppo_lightning.oracles.llm_blender import LLMBlender
from sppo_lightning.oracles.pair_logits import PairLogitOracle
from sppo_lightning.oracles.pairrm_model import PairRMCheckpoint
from sppo_lightning.oracles.pairrm_text import candidate_text, source_text
from sppo_lightning.types import Message, Prompt

from .examples import candidates
from .judge_models import save_pairrm, texts

needs_llm_blender = pytest.mark.skipif(
    importlib.util.find_spec("llm_blender") is None, reason="needs the extra `judge`: llm-blender is not installed"
)
KETTLE = "Is the price of the kettle fair?"


@pytest.fixture(scope="module")
def blender_folder(tmp_path_factory):
    return save_pairrm(tmp_path_factory.mktemp("blender"), layout="blender")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pairrm(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def judge(folder):
    return PairRM(str(folder), device="cpu")


@pytest.fixture(scope="module")
def real(blender_folder):
    return LLMBlender(str(blender_folder), device="cpu")


def prompt(text: str, number: int = 0) -> Prompt:
    return Prompt(prompt_id=f"p{number}", messages=({"role": "user", "content": text},))


def both_orders(number: int, source: str, first: str, second: str) -> list[Pair]:
    pair = Pair(prompt=prompt(source, number), first=first, second=second)
    return [pair, pair.swapped]


@pytest.fixture(scope="module")
def ordered_pairs() -> list[Pair]:
    """200 ordered pairs; every twentieth prompt is longer than 1224 tokens, or a response than 412 and more."""
    rng = random.Random(0)
    words = [word for text in texts() for word in text.split()]

    def text(num_words: int) -> str:
        return " ".join(rng.choice(words) for _ in range(num_words))

    pairs = []
    for number in range(100):
        is_long = number % 20 == 0
        source = text(450 if is_long else rng.choice([2, 9, 30]))
        first, second = (text(rng.choice([250, 500] if is_long else [1, 8, 25])) for _ in range(2))
        pairs += both_orders(number, source, first, second)
    odd = ["", " ", "[SEP]", "a [SEP] b [CLS] c", "\U0001f600 \u0645\u0631\u062d\u0628\u0627\n\n\tx", "  two  spaces  "]
    for number, text_ in enumerate(odd):
        pairs[2 * number + 2 : 2 * number + 4] = both_orders(number + 1, text_ or "x", text_, "an answer")
    assert len(pairs) == 200
    return pairs


@needs_llm_blender
def test_it_equals_the_real_package(blender_folder, real, ordered_pairs):
    native = PairRM(str(blender_folder), device="cpu")
    logits = native.logits(ordered_pairs)
    assert float((logits - real.logits(ordered_pairs)).abs().max()) <= 1e-4
    # It is not a comparison of zeros, nor of short texts alone.
    assert float(logits.std()) > 0.5
    assert native.measured()["cut_share"] == pytest.approx(0.05)


@needs_llm_blender
def test_the_real_package_works_on_the_gpu_it_is_given(blender_folder, monkeypatch):
    """It knows "cuda" alone, so the GPU is made the current one around both loading and judging."""
    current, seen = [], []

    @contextmanager
    def chosen(device):
        current.append(device)
        yield
        current.pop()

    class Blender:
        def __init__(self, blender_config):
            pass

        def loadranker(self, path, device):
            seen.append((device, current[-1]))

        def compare(self, sources, *others, **settings):
            seen.append(("compare", current[-1]))
            return np.zeros(len(sources))

    monkeypatch.setattr(
        llm_blender, "_import", lambda: SimpleNamespace(Blender=Blender, BlenderConfig=lambda **settings: None)
    )
    monkeypatch.setattr(llm_blender, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device", chosen)
    oracle = LLMBlender(str(blender_folder), device="cuda:1")
    oracle.logits(both_orders(0, KETTLE, "yes", "no"))
    assert seen == [("cuda", torch.device("cuda:1")), ("compare", torch.device("cuda:1"))]


@needs_llm_blender
def test_bradley_terry_equals_the_real_packages_rank(blender_folder, real):
    asked = {KETTLE: ["yes", "no", "the price is fair", "no"], "Where is the bridge?": ["here", "there", "up", "far"]}
    native = PairRM(str(blender_folder), aggregation="bradley_terry", device="cpu")
    matrix = native.compare(candidates(asked))
    real.logits(both_orders(0, "x", "a", "b"))
    from sppo_lightning.oracles.llm_blender import _batch_encode_plus

    with _batch_encode_plus():
        ranked = real._blender.rank(
            list(asked), list(asked.values()), return_scores=True, batch_size=1, disable_tqdm=True
        )
    expected = torch.from_numpy(ranked)
    torch.testing.assert_close(matrix.scores_BK, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        matrix.probs_BKJ, torch.sigmoid(expected[:, :, None] - expected[:, None, :]), atol=1e-4, rtol=0
    )


@needs_llm_blender
def test_a_conversation_is_written_as_the_real_package_writes_it():
    from sppo_lightning.oracles.llm_blender import _import

    _import()
    from llm_blender.blender.blender_utils import get_pair_from_conv

    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    asked = Prompt(prompt_id="c", messages=tuple(Message(role=role, content=text) for role, text in turns))
    conversations = [
        [{"role": role.upper(), "content": text} for role, text in [*turns, ("assistant", answer)]]
        for answer in ("yes", "no")
    ]
    sources, first, second = get_pair_from_conv(conversations[:1], conversations[1:])
    assert source_text(asked) == sources[0]
    assert [candidate_text(asked, answer) for answer in ("yes", "no")] == [first[0], second[0]]
    assert source_text(prompt("alone")) == "alone"


def test_both_layouts_are_one_model(blender_folder, judge):
    pairs = both_orders(0, KETTLE, "yes, it is", "no")
    native = PairRM(str(blender_folder), device="cpu")
    torch.testing.assert_close(judge.logits(pairs), native.logits(pairs))


def test_a_pair_is_judged_as_if_it_were_alone(folder, ordered_pairs):
    """In batches of similar length, one by one, and in any order."""
    pairs = ordered_pairs[2:24]
    together = PairRM(str(folder), batch_tokens=4096, device="cpu").logits(pairs)
    alone = PairRM(str(folder), batch_tokens=1, device="cpu").logits(pairs)
    backwards = PairRM(str(folder), batch_tokens=600, device="cpu").logits(pairs[::-1])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    torch.testing.assert_close(together, backwards.flip(0), atol=2e-5, rtol=0)


def test_both_orders_are_averaged_in_logits(folder):
    judge = PairRM(str(folder), device="cpu")
    pairs = both_orders(0, KETTLE, "yes, it is", "no")
    as_shown, as_swapped = judge.logits(pairs).tolist()
    assert abs(as_shown + as_swapped) > 0.05  # this judge has a bias to average out
    first, second = judge.judge(pairs)
    assert first == pytest.approx(torch.sigmoid(torch.tensor((as_shown - as_swapped) / 2)).item())
    assert first + second == pytest.approx(1)
    shown_first = torch.sigmoid(torch.tensor([as_shown, as_swapped])).mean().item()
    assert judge.measured()["position_bias"] == pytest.approx(shown_first - 0.5)


def test_limits_can_be_set(folder):
    short = PairRM(str(folder), max_source_tokens=8, max_candidate_tokens=4, device="cpu")
    # Of the source 8 tokens remain, so that a response has 4: begin, mark, one piece, end.
    pair = both_orders(0, KETTLE * 5, "kettle price fair", "bridge")
    beyond = both_orders(0, KETTLE * 5, "kettle price fair and much more", "bridge")
    torch.testing.assert_close(short.logits(pair), short.logits(beyond))
    assert short.measured()["cut_share"] == 1


def test_a_response_cannot_say_where_a_response_begins(judge):
    """The mark of a candidate, written out by a policy that games its judge, is a space."""
    honest, gaming = (
        judge.logits(both_orders(0, KETTLE, f"yes{mark}it is [SEP] fair", "no")) for mark in (" ", "<|candidate2|>")
    )
    torch.testing.assert_close(honest, gaming)


class Cycle(PairLogitOracle):
    """Rock, paper, scissors, with a bias for the first place."""

    def logits(self, pairs):
        beats = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}
        return torch.tensor([0.7 + (2.0 if (pair.first, pair.second) in beats else -2.0) for pair in pairs])


def test_a_cycle_of_logits():
    asked = candidates({KETTLE: ["rock", "paper", "scissors"]})
    kept = Cycle().compare(asked).probs_BKJ[0]
    assert kept[0].tolist() == pytest.approx([0.5, 0.119, 0.881], abs=1e-3)
    erased = Cycle("bradley_terry").compare(asked)
    assert torch.equal(erased.probs_BKJ, torch.full((1, 3, 3), 0.5))
    assert erased.scores_BK.tolist() == [[0, 0, 0]]


def test_a_network_that_learned_a_cycle(folder, tmp_path):
    """Through the whole of PairRM: kept pairwise, erased under bradley_terry."""
    checkpoint = PairRMCheckpoint(str(folder))
    network = checkpoint.load(torch.float32, len(checkpoint.tokenizer()))
    names, source = ["rock", "paper", "scissors"], "Which wins?"
    judge = PairRM(str(folder), device="cpu")
    judge._open()
    ordered = [(source, names[i], names[j]) for i in range(3) for j in range(3) if i != j]
    rows, _ = judge._tokens.rows(ordered)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row.ids), dtype=torch.long) for row in rows], True)
    marks = torch.tensor([row.marks for row in rows])
    goal = torch.tensor([2.0 if (names.index(b) - names.index(a)) % 3 == 2 else -2.0 for _, a, b in ordered])
    network.eval()  # without dropout
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (network(ids, mask, marks) - goal).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
    shutil.copytree(folder, tmp_path / "cycle")
    save_file(network.state_dict(), tmp_path / "cycle" / "model.safetensors")
    asked = candidates({source: names})
    kept = PairRM(str(tmp_path / "cycle"), device="cpu").compare(asked).probs_BKJ[0]
    assert [float(kept[1, 0]), float(kept[2, 1]), float(kept[0, 2])] == pytest.approx([0.881] * 3, abs=0.01)
    erased = PairRM(str(tmp_path / "cycle"), aggregation="bradley_terry", device="cpu").compare(asked).probs_BKJ
    assert float((erased - 0.5).abs().max()) < 0.02


def test_bradley_terry_scores_are_means_over_all_that_are_compared(folder):
    """Against opponents, too: s over candidates and opponents together; equal texts count as often as they stand."""
    ours, theirs = ["yes", "no", "yes"], ["maybe", "no"]
    pairwise, official = (
        PairRM(str(folder), aggregation, device="cpu") for aggregation in ("pairwise", "bradley_terry")
    )
    everyone = [*ours, *theirs]
    logits = torch.logit(pairwise.compare(candidates({KETTLE: everyone})).probs_BKJ[0].double())
    score = 2 * logits.mean(1)
    expected = torch.sigmoid(score[:3, None] - score[None, 3:]).float()
    found = official.compare(candidates({KETTLE: ours}), candidates({KETTLE: theirs}))
    torch.testing.assert_close(found.probs_BKJ[0], expected, atol=1e-4, rtol=0)
    assert official.gives_scores
    assert not pairwise.gives_scores


def test_bradley_terry_cannot_judge_single_pairs(folder):
    official = PairRM(str(folder), "bradley_terry", device="cpu")
    assert not official.judges_pairs_alone
    with pytest.raises(OracleError, match="cannot judge single pairs"):
        official.judge(both_orders(0, KETTLE, "yes", "no"))


# --- what cannot work ------------------------------------------------------------------------------------------------


def edit_config(**changes):
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | changes).items() if v is not None}))

    return edit


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without_marks(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "|" not in token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


EARLY = {
    "no folder": (lambda folder: shutil.rmtree(folder), "is no folder"),
    "no config": (remove("config.json"), "config.json is missing"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "a reward model": (
        edit_config(source_prefix_id=None, architectures=["LlamaForSequenceClassification"], model_type="llama"),
        "is LlamaForSequenceClassification .* data.oracle RewardModel",
    ),
    "another ranker": (edit_config(ranker_type="summareranker", model_type="roberta"), "summareranker on roberta"),
    "its encoder is gone": (
        edit_config(ranker_type="pairranker", model_type="deberta", model_name="/nowhere/deberta"),
        "the encoder of .*: /nowhere/deberta is no folder",
    ),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "no marks": (without_marks, "the tokenizer of this model has no .*candidate1"),
    "marks elsewhere": (edit_config(cand1_prefix_id=7), "do not belong together"),
    "no weights": (remove("model.safetensors"), "holds no weights"),
    "half a file": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000]),
        "damaged or not a safetensors file",
    ),
    "another network's weights": (lambda folder: save_file({"x": torch.ones(2)}, folder / "model.safetensors"), "lack"),
    "a pickle": (pickled, "only as a pickle .* Convert a file that you trust"),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_cannot_work_is_refused_before_anything_is_generated(case, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(folder, tmp_path / "judge")
    damage, message = EARLY[case]
    damage(tmp_path / "judge")
    with pytest.raises(ConfigError, match=message):
        PairRM(str(tmp_path / "judge"), device="cpu").check_prompts([prompt(KETTLE)])


def edit_weights(**changes):
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        for name, change in changes.items():
            place = name.replace("__", ".")
            if change is None:
                del weights[place]
            else:
                change(weights[place])
        save_file(weights, folder / "model.safetensors")

    return edit


LATE = {
    "NaN weights": (
        edit_weights(head_layer__4__weight=lambda weight: weight.fill_(float("nan"))),
        OracleError,
        "head_layer.4.weight of .* holds NaN or infinity",
    ),
    "a tensor is missing": (edit_weights(head_layer__1__bias=None), ConfigError, "1 are missing .* head_layer.1.bias"),
    "another network's": (edit_weights(head_layer__4__weight=None), ConfigError, "lack head_layer.4.weight, so this"),
    "another width": (edit_config(hidden_size=64), ConfigError, "do not fit its config.json"),
    "logits that overflow": (
        edit_weights(head_layer__4__weight=lambda weight: weight.fill_(3e38)),
        OracleError,
        "the logit of a pair at prompt p0 is .*data.oracle.dtype float32",
    ),
}


@pytest.mark.parametrize("case", LATE)
def test_weights_that_cannot_work_are_refused(case, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "judge")
    damage, error, message = LATE[case]
    damage(tmp_path / "judge")
    judge = PairRM(str(tmp_path / "judge"), device="cpu")
    with pytest.raises(error, match=message):
        judge.compare(candidates({KETTLE: ["yes", "no"]}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"aggregation": "mean"}, "pairwise or bradley_terry"),
        ({"max_source_tokens": 2}, "max_source_tokens must be at least 3"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PairRM("anything", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"device": "cuda:99"}, "data.oracle.device"), ({"dtype": "int8"}, "data.oracle.dtype must be")],
)
def test_a_device_or_precision_that_is_not_there(folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        PairRM(str(folder), **({"device": "cpu"} | arguments)).check_prompts([])


def test_half_precision_is_only_less_precise(folder):
    pairs = both_orders(0, KETTLE, "yes, it is", "no")
    exact, rounded = (PairRM(str(folder), dtype=dtype, device="cpu").logits(pairs) for dtype in ("float32", "bfloat16"))
    torch.testing.assert_close(exact, rounded, atol=0.1, rtol=0.1)
    assert not torch.equal(exact, rounded)
