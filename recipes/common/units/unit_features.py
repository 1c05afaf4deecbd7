"""The features that units are made from: MFCC, or a hidden layer of a frame encoder."""

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lobes.signal import FRAME_RATE, HOP, SAMPLE_RATE, length_mask, num_frames
from lobes.targets import mfcc
from pretrained.audio import read_speech
from pretrained.commands.runtime import give_large_memory_back
from pretrained.windows import cut_windows, kept
from recipes.common.data.crops import SpeechBatch
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.data.seeding import derive_rng

MFCC_SIZE = 39
LONGEST = 120 * SAMPLE_RATE  # samples that a teacher encodes at once: at the base size, some 3 GB


class UnitFeatures:
    """The features of a dataset's utterances, by batches.

    Arguments
    ---------
    dataset : Utterances
        Of a manifest. It gets the item `features`.
    hparams : dict
        `max_batch_seconds`, `num_workers`, `seed`.
    teacher : FrameEncoder, optional
        In evaluation mode, on its device; it gives the features. MFCC without one.
    layer : int
        Which of the teacher's hidden states, 0 being the first layer's input.
    """

    def __init__(self, dataset, hparams, teacher=None, layer=0):
        self.dataset = dataset
        self.hparams = hparams
        self.teacher = teacher
        self.layer = layer
        self.size = MFCC_SIZE if teacher is None else teacher.config["d_model"]

    def plan(self, places, durations):
        """Return the batches of some utterances: lists of their places in the dataset.

        Arguments
        ---------
        places : numpy.ndarray
            Of the utterances.
        durations : numpy.ndarray
            Seconds of each of these.
        """
        settings = self.hparams["max_batch_seconds"], self.hparams["seed"]
        batches = [places[batch].tolist() for batch in LengthSortedBatches(durations, *settings)]
        # Shuffled, so that any part of the batches is a fair sample of the lengths.
        order = derive_rng(self.hparams["seed"], "units").permutation(len(batches))
        return [batches[place] for place in order]

    def load(self, batches):
        """Yield the batches, read by workers."""
        item = read_mfcc if self.teacher is None else read_speech
        self.dataset.add_dynamic_item(item, takes="wav", provides="features")
        self.dataset.set_output_keys(["id", "duration", "features"])
        return DataLoader(
            self.dataset,
            batch_sampler=batches,
            num_workers=self.hparams["num_workers"],
            collate_fn=SpeechBatch,
            worker_init_fn=give_large_memory_back,
        )

    @torch.no_grad()
    def of(self, batch):
        """Return the frames of a batch's utterances, one utterance after the other.

        Returns
        -------
        torch.Tensor
            Shape (frames, size), on the teacher's device.

        Raises
        ------
        ValueError
            Where the audio is of another length than the manifest says.
        """
        data, lens = batch.features
        if self.teacher is None:
            counts = (lens * data.shape[1]).round().long()
        else:
            counts, data = self.teacher.frame_lens(data, lens), self.hidden_states(data, lens)
        expected = num_frames((batch.duration * SAMPLE_RATE).round().long())
        for row in (counts != expected).nonzero().flatten().tolist()[:1]:
            raise ValueError(
                f"{batch.id[row]}: its audio has {counts[row]} frames at {FRAME_RATE} Hz, by its "
                f"duration in the manifest {expected[row]}. Prepare the corpus anew."
            )
        return data[length_mask(counts, data.shape[1]).to(data.device)]

    def hidden_states(self, wavs, wav_lens):
        """Return the layer's frames, (batch, frames, size); window by window where rows are long.

        Windows are those in which `pretrained` encodes long recordings.
        """
        device = next(self.teacher.parameters()).device
        if wavs.shape[1] <= LONGEST:
            own = self.teacher(wavs.to(device), wav_lens.to(device), output_hidden_states=True)
            return own[1][self.layer]
        samples, rows = (wav_lens * wavs.shape[1]).round().long().tolist(), []
        for wav, count in zip(wavs, samples, strict=True):
            parts = []
            for window, first, last in cut_windows([wav[:count].numpy()]):
                states = self.teacher(window.to(device), output_hidden_states=True)[1]
                parts.append(states[self.layer][0, kept(first, last, HOP)])
            rows.append(torch.cat(parts))
        return pad_sequence(rows, batch_first=True)


def read_mfcc(path):
    """Return the MFCC of an audio file: shape (frames, 39)."""
    return mfcc(read_speech(path))
