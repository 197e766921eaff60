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

Several --config are merged, later ones win; a --KEY VALUE wins over files. A configuration names classes that are
then run: a config is code, so run only those you trust.
"""

USAGE = "python -m sppo_lightning fit [--config FILE ...] [--KEY VALUE ...]"

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
