"""Training one run: the loop, the path tree, states and checkpoints. Knows neither Optuna nor MLflow."""
