"""Models for others: the card that tells what a folder is, and the Hugging Face Hub."""
