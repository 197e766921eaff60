"""What `--help` says before Lightning is imported, which takes seconds."""

HELP = """\
Align a language model by self-play against general preferences.

usage: python -m sppo_lightning VERB [--config FILE ...] [--KEY VALUE ...]

verbs:
{verbs}

start here:
  python -m sppo_lightning fit --config configs/quickstart.yaml
  python -m sppo_lightning fit --config configs/quickstart.yaml --data.prompts my_prompts.jsonl
  python -m sppo_lightning fit --help            the keys people change, then all of them
  python -m sppo_lightning fit --config configs/quickstart.yaml --print_config    every setting with its value
  python -m sppo_lightning validate --config runs/quickstart/config.yaml          win rates of what was trained

Several --config are merged, later ones win; a --KEY VALUE wins over files. A configuration names classes that are
then run: a config is code, so run only those you trust.
"""

USAGE = "python -m sppo_lightning {verb} [--config FILE ...] [--KEY VALUE ...]"

FIT_KEYS = """\
The keys people change (all of them follow):

  --data.prompts FILE              prompts: .jsonl, .json, .txt, .csv, .parquet, a folder, or a hub dataset
  --model.policy FOLDER_OR_ID      the start policy
  --data.oracle CLASS              who judges                      --data.oracle.KEY VALUE for its arguments
  --model.objective CLASS          SPPO, DPO, ...                  --model.objective.eta 1000
  --data.engine CLASS              who generates                   --data.engine.max_new_tokens 512
  --data.num_rounds N              rounds
  --data.num_candidates K          responses for each prompt
  --data.prompts_per_round N       fresh prompts each round (not set: all prompts each round)
  --data.epochs_per_round N        passes over a round
  --data.global_batch_prompts N    prompts in one optimiser step
  --data.pairing CLASS             BestWorst or All
  --model.optimizer CLASS          --model.optimizer.lr 5e-7
  --data.max_pack_tokens N         tokens through the model at once: lower it when memory is short
  --trainer.default_root_dir DIR   the run's folder
  --seed_everything N              the seed of everything
  --from RUN@round_001             begin at a round of another run and share its generated and judged files

The arguments of a class: --data.engine.help Transformers, --model.objective.help DPO, ...
"""

VALIDATE_KEYS = """\
Win rates of a policy on held-out prompts. Nothing of the run is changed; the same command goes on after a kill.

  python -m sppo_lightning validate --config runs/NAME/config.yaml --policy round_003 --against start round_001

  --policy POLICY         start, round_003 or mixture of the run, a folder, a hub id, or a mixture.json
                          (not set: the run's newest policy)
  --against POLICY ...    start, previous, all, or whatever --policy may be (not set: start previous)
  --prompts FILE          other prompts than the run's held-out ones
  --num_samples N         responses of each policy to each prompt (not set: 4)
  --output FILE           where the json goes (not set: eval/validate/ of the run)

  --data.oracle CLASS     another judge                     --data.engine.temperature 0.7   another temperature
"""

PREDICT_KEYS = """\
A policy's answers to a file of prompts. Nothing of the run is changed; the same command goes on after a kill.

  python -m sppo_lightning predict --config runs/NAME/config.yaml --prompts alpaca_eval.json --format alpaca_eval \\
      --best_of 16 --output model_outputs.json

  --prompts FILE          the prompts, or a benchmark's questions
  --format FORMAT         whose questions and answers: alpaca_eval, arena_hard, mt_bench or jsonl (not set: jsonl)
  --policy POLICY         start, round_003 or mixture of the run, a folder, a hub id, or a mixture.json
                          (not set: the run's newest policy)
  --best_of N             sample N responses and keep the one that data.oracle prefers to the others
  --name NAME             what the answers call the policy (not set: RUN-POLICY)
  --output FILE           the answer file (not set: eval/predict/ of the run)

  --data.oracle CLASS     another judge                     --data.engine.temperature 0.7   another temperature
"""

TEST_KEYS = """\
Benchmarks. Nothing of a run is changed; the same command goes on after a kill.

AlpacaEval's questions, answered by a policy and judged by data.oracle:
  python -m sppo_lightning test --config runs/NAME/config.yaml --prompts alpaca_eval.json

  --prompts FILE                  AlpacaEval's questions, alpaca_eval.json
  --policy POLICY                 start, round_003 or mixture of the run, a folder, ... (not set: the newest policy)
  --baseline FILE                 a baseline's model_outputs.json (not set: the outputs beside the questions)
  --instruction_difficulty FILE   the hub's instruction_difficulty.csv, for the length-controlled win rate
  --gamed_baseline FILE           the hub's df_gamed.csv, for the same
  --name NAME                     what the answers call the policy (not set: RUN-POLICY)
  --output FOLDER                 where the results go (not set: eval/test/ of the run)

AlpacaEval's figures from another judge's annotations, without a configuration:
  python -m sppo_lightning test --annotations annotations.json [--instruction_difficulty FILE] [--gamed_baseline FILE]

The lm-eval harness, for the alignment tax: pip install "sppo-lightning[lm-eval]"
  python -m sppo_lightning test --lm_eval TASK ... --policy START runs/NAME/exports/round_003 [--tasks_from FOLDER]
"""

KEYS = {"fit": FIT_KEYS, "validate": VALIDATE_KEYS, "test": TEST_KEYS, "predict": PREDICT_KEYS}
"""What `VERB --help` says before all keys of the Trainer's verbs follow."""
