"""One round: opponents, pairing, the round on disk, and the batches made of it."""
