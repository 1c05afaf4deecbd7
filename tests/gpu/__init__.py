"""What a GPU makes of the base size: agreement with the CPU, speed, and training by the recipes."""
