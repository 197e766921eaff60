"""A tiny policy, and one whole tiny run that the rooms above the objectives look at from all sides.

Heavy imports stay inside the fixtures, so that rooms that need none of this do not pay for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

WORDS = 9
PAD, BOS, EOS = 0, 1, 2


@dataclass
class TinyRun:
    """A fit of the real modules, and what was seen on the way.

    `batches[step]` are the objective's inputs of each pack, in order; `logged` what a logger got, as (step, metrics).
    """

    root: Path
    trainer: Any
    module: Any
    data: Any
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    tables: dict[tuple[str, int], list[dict]] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    description: str = ""
    inputs: list[tuple] = field(default_factory=list)
    batches: dict[int, list[Any]] = field(default_factory=dict)
    steps: list[SimpleNamespace] = field(default_factory=list)

    def metrics(self, name: str) -> dict[int, float]:
        """step -> value, once each."""
        found = [(step, metrics[name]) for step, metrics in self.logged if name in metrics]
        assert len(found) == len(dict(found)), f"{name} was logged twice at one step"
        return dict(found)

    def fit(self, checkpoint: Path | None = None) -> TinyRun:
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)
        return self


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS} | {f"w{i}": 3 + i for i in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = "{{ bos_token }}{% for message in messages %} {{ message['content'] }}{% endfor %}"
    return fast


def tiny_llama(**changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": 3 + WORDS,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    torch.manual_seed(7)
    return LlamaForCausalLM(LlamaConfig(**shape | changes)).eval()


def save_policy(folder: Path, **changes: Any) -> Path:
    tiny_llama(**changes).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def prompt_rows(count: int) -> list[dict[str, str]]:
    """Prompts of 1 to 7 words with ids that do not come from their content."""
    return [
        {"prompt_id": f"p{b}", "prompt": " ".join(f"w{(3 * b + 2 * i) % WORDS}" for i in range(1 + b % 7))}
        for b in range(count)
    ]


def word_game() -> Any:
    """A cyclic preference that reads the text: P = 1/2 + 0.4 sin(s - s')."""
    import torch

    from sppo_lightning.oracles.base import PreferenceOracle
    from sppo_lightning.oracles.ragged import judged_mask, pad
    from sppo_lightning.types import PreferenceMatrix

    class WordGame(PreferenceOracle):
        gives_scores = True
        calls = 0

        def compare(self, candidates, opponents=None):
            type(self).calls += 1
            columns = opponents or candidates
            rows_BK, columns_BJ = self._scores(candidates), self._scores(columns)
            return PreferenceMatrix(
                probs_BKJ=(0.5 + 0.4 * torch.sin(rows_BK[:, :, None] - columns_BJ[:, None, :])).float(),
                judged_BKJ=judged_mask(candidates, columns),
                scores_BK=rows_BK.float(),
                self_play=opponents is None,
                prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
            )

        def _scores(self, candidates):
            values = [
                [sum(0.7 * int(word[1:]) + 0.1 for word in text.split()) for text in texts]
                for texts in candidates.texts
            ]
            return pad(values, 0.0, torch.float64)

    return WordGame()


def recording_sppo(run_batches: dict[int, list[Any]], step: Any) -> Any:
    """SPPO that asks for every kind of frozen policy and notes what it is given."""
    from sppo_lightning.objectives import SPPO

    class RecordingSPPO(SPPO):
        needs = ("previous", "anchor", "history/1", "history/2")

        def __call__(self, inputs):
            run_batches.setdefault(step(), []).append(inputs)
            return super().__call__(inputs)

    return RecordingSPPO(eta=2.0, log_z="estimate")


def make_run(root: Path, policy: Path, callbacks: list[Any] | None = None, module_args=None, **data_args) -> TinyRun:
    """The real modules on a tiny configuration, set up as the command line does."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything
    from lightning.pytorch.loggers import Logger

    from sppo_lightning.engines import Transformers
    from sppo_lightning.selfplay.opponents import History
    from sppo_lightning.selfplay.pairing import All
    from sppo_lightning.training.checkpoint import AtomicCheckpointIO
    from sppo_lightning.training.data import SelfPlayDataModule
    from sppo_lightning.training.module import PolicyModule
    from sppo_lightning.training.run_folder import RunFolder
    from sppo_lightning.training.tracking import RunLogger

    class Recorder(RunLogger):
        """What the MLflow record would get."""

        tracking_uri, experiment_id, run_id = "sqlite:///mlflow.db", "1", "0" * 32

        def __init__(self):
            Logger.__init__(self)

        def log_metrics(self, metrics, step=None):
            run.logged.append((step, dict(metrics)))

        def log_table(self, key, rows, step):
            run.tables[key, step] = list(rows)

        def log_text(self, text, artifact_file):
            run.artifacts.append(artifact_file)

        def log_description(self, markdown):
            run.description = markdown

        def log_artifact_once(self, path, artifact_path=None):
            run.artifacts.append(f"{artifact_path}/{Path(path).name}")

        def log_prompts(self, context, *, source, digest, counts):
            run.inputs.append((context, source, digest, dict(counts)))

        def log_hyperparams(self, params):
            pass

        def finalize(self, status="success"):
            pass

        save_dir, name, version = str(root), "run", 0

    class Spy(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            optimizer = trainer.optimizers[0]
            run.steps.append(
                SimpleNamespace(
                    step=trainer.global_step,
                    round=pl_module.position.round,
                    epoch=pl_module.position.epoch,
                    num_states=len(optimizer.state),
                    learning_rate=optimizer.param_groups[0]["lr"],
                    num_prompts=batch.num_prompts,
                    num_packs=len(batch.packs),
                )
            )

    seed_everything(0, verbose=False)
    prompts = root / "prompts.json"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text(json.dumps(prompt_rows(14)))
    run = TinyRun(root, None, None, None)
    arguments = {
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=0.02),
        "warmup_ratio": 0.0,
        "checkpoint_every_n_steps": 1,
    }
    arguments |= {"objective": recording_sppo(run.batches, lambda: run.trainer.global_step)} | (module_args or {})
    run.module = PolicyModule(str(policy), **arguments)
    run.data = SelfPlayDataModule(
        **{
            "prompts": str(prompts),
            "engine": Transformers(max_new_tokens=16),
            "oracle": word_game(),
            "opponent": History(num_policies=2),
            "pairing": All(),
            "num_rounds": 3,
            "num_candidates": 4,
            "num_opponent_candidates": 2,
            "epochs_per_round": 2,
            "global_batch_prompts": 4,
            "held_out": 3,
            "max_pack_tokens": 60,
            "chunk_prompts": 5,
            "seed": 3,
        }
        | data_args
    )
    RunFolder(root).lock()
    run.trainer = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=root,
        max_epochs=(run.data.num_rounds - run.data.first_round)
        * run.module.schedule.epochs_in_round(run.data.epochs_per_round),
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        logger=Recorder(),
        plugins=[AtomicCheckpointIO()],
        callbacks=[*(callbacks or []), Spy()],
    )
    return run


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The makers of tiny things, for tests that need their own."""
    from sppo_lightning.selfplay.opponents import SelfPlay

    return SimpleNamespace(
        self_play=SelfPlay,
        llama=tiny_llama,
        tokenizer=word_tokenizer,
        save_policy=save_policy,
        prompt_rows=prompt_rows,
        word_game=word_game,
        make_run=make_run,
        eos=EOS,
    )


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny start policy on disk."""
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def finished_run(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Three rounds of two epochs, with every callback of ours."""
    from sppo_lightning import callbacks

    ours = [getattr(callbacks, name)() for name in callbacks.__all__]
    return make_run(tmp_path_factory.mktemp("run"), policy_folder, ours).fit()
