"""Other toolkits' weights: their names, reading them, and writing our encoders in their layouts."""
