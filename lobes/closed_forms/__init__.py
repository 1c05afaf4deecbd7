"""What changes frames in closed form, so that they tell less of the speaker: minutes, no training.

`erasure` takes directions off, those that tell most of embeddings (LEACE) or the principal ones of
speaker means; `least_squares` takes off what an utterance's embedding predicts. Each is a module
that maps frames to frames. `lobes.frame_encoder.FrameNorm`, which needs no fit, is the encoder's.
"""
