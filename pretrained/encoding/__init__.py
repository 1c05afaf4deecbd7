"""Many files encoded: in batches of like length, written as arrays, gone on with later."""
