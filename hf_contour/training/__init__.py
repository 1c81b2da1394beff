"""The training loop of both stages and what it rests on."""
