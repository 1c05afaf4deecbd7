"""Entries for `torch.hub`: exported models as s3prl's upstreams.

    torch.hub.load(REPOSITORY, "learn2diss_frames", source="local", ckpt=FOLDER)

Each returns a module that maps a list of waveforms to hidden states; see
`pretrained.toolkits.upstreams`.
"""

from pretrained.toolkits.upstreams import LastUpstreamExpert as learn2diss_last
from pretrained.toolkits.upstreams import UpstreamExpert as learn2diss_frames
from pretrained.toolkits.upstreams import UtteranceUpstreamExpert as learn2diss_utterance

dependencies = ["torch", "torchaudio", "speechbrain", "numpy", "safetensors", "soundfile"]
__all__ = ["learn2diss_frames", "learn2diss_last", "learn2diss_utterance"]
