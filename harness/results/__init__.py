"""What became of runs: models back from them, compared, confirmed, exported."""
