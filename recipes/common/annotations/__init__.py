"""What was said in an utterance: words and symbols, alignments, triphones, ABX items."""
