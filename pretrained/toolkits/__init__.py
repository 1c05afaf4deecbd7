"""Other toolkits' weights: their names, reading them, and writing our encoders in their layouts."""

LAYOUTS = ("speechbrain", "huggingface", "torchaudio")  # layouts.py has a function to_... of each
GRAPHS = ("onnx", "torch_export")  # pretrained.deployment.graph_files has a function of each
PLAIN = ("huggingface", "torchaudio")  # have no place for what changes frames after the last layer
