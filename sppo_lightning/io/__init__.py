"""Reading prompts, and writing files that survive a kill."""
