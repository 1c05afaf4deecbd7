"""What a GPU makes of the recipes: agreement with the CPU, speed, training by their commands."""
