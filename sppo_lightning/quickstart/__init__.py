"""The quick start's little world: a corpus of our own writing, the policy trained on it, and its exact style mix."""
