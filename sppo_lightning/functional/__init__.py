"""Pure maths: log-probabilities, games, intervals, seeds."""
