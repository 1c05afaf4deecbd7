"""How an utterance encoder learns without labels: a file for each method, over one base."""
