"""Finding builders and turning their rows into model inputs."""
