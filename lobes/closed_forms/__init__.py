"""What changes frames in closed form, so that they tell less of the speaker: minutes, no training.

`erasure` takes directions off, those that tell most of embeddings (LEACE) or the principal ones of
speaker means; `least_squares` takes off what an utterance's embedding predicts; `frame_norm` each
utterance's mean, and divides by its deviation. Each is a module that maps frames to frames.
"""
