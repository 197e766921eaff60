"""Lightning's side: the policy module, the self-play data module, schedules, checkpoints, tracking."""
