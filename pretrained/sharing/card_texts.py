"""What model cards say: what a folder is for, what it is not for, and whose voices it tells.

Keys of a text in braces are filled in by `pretrained.sharing.card`.
"""

from pretrained.facts import CLASSIFIER, TRANSCRIBER, VERIFIER

NOT_FOR = """\
- Deciding anything about a person, such as identity, access, employment, health or origin, without
  a test on the people and the recordings that it concerns, and without a person who answers for it.
- Recognising people who have not agreed to it, and recordings of people who do not know of them.
- Other languages, ages, accents, rooms, microphones and telephone lines than those of the training
  data, as long as nobody has tested it on them. Music and other sounds are in none of our tests.
- Hiding who speaks. The next section says why."""
PRIVACY = """\
A voice tells who speaks: a recording of it is personal data, and so is what is computed from it.

- **The embedding of an utterance is made to tell voices apart.** Used to recognise a person, it is
  biometric data in many laws, among them the General Data Protection Regulation of the European
  Union (Article 9) and the Biometric Information Privacy Act of Illinois. These mostly ask that
  **the person who speaks agrees beforehand**, knowing what it is for and how long it is kept. That
  a recording is public does not mean that its speaker has agreed. Keep embeddings and enrolled
  voices as you keep passwords, and delete them when a person asks for it: unlike a password, a
  voice cannot be changed.
- **Frames still carry some of the speaker.** Joint training lowers it in the last layer,
  earlier layers have more of it, and nothing here makes speech anonymous. Treat the frames of a
  recording, and the units made of them, as you treat the recording.
- **What was said** can be recovered in part from frames, and to some degree from embeddings.

This is no legal advice. Ask someone who knows the law of the place where the speakers live."""
ENCODER_USES = {
    "frame_encoder": """\
- Frames: features of what is said, 50 a second, for recognising phones, words or commands, and for
  making discrete units.""",
    "utterance_encoder": """\
- Embeddings of utterances: features of the voice and of the channel, for verifying speakers who
  have agreed to it, for telling who speaks when, and for grouping recordings by conditions.""",
}
ENCODER_LIMITS = """\
- It was trained by one run, without labels, for objectives of its own. Whether it helps a task is
  seen by trying: beside log-mel bands and beside the same encoder with random weights.
- Neither encoder is pure: frames tell some of the speaker, embeddings some of what was said. How
  much, the project's report measures (`recipes/LibriSpeech/report`)."""
HEAD_LIMITS = """\
- The encoder beneath the head, if there is one, was trained before, and maybe on other data: the
  card in the folder that it was taken from says on which.
- Errors are not the same for all people: they grow with the distance from the training data, and
  children, second-language speakers and rare accents are mostly far from it."""
ENCODERS_TEXT = {
    "task": "feature-extraction",
    "tag": "self-supervised",
    "title": "{encoders}",
    "what": """encoders of 16 kHz speech,
trained without labels.""",
    "uses": """{encoder_uses}
- Research on what such representations hold.""",
    "limits": ENCODER_LIMITS,
    "load": """    from pretrained import Learn2Diss
    model = Learn2Diss.from_pretrained("<this folder>")
    encoding = model.encode_file("speech.flac")

`encoding.frames` is (1, frames, d_model) at 50 Hz, `encoding.utterance` (1, E); the output of an
encoder that is not in the folder is None.""",
    "caveat": """They say how its training went by
its own measures. They do not tell how good the representations are for another task or on other
recordings, and figures of runs on other data cannot be compared with them.""",
}
HEADS_CAVEAT = """They do not tell how
many errors there are on other recordings, and can be compared only with figures on the same"""
TRANSCRIBER_TEXT = {
    "task": "automatic-speech-recognition",
    "tag": "ctc",
    "title": "Transcriber",
    "what": """16 kHz speech to
{tokenizer[kind]}, by a CTC head on {features}.""",
    "uses": """- Drafts of transcripts, which a person reads before anything depends on them.
- Comparing representations of speech by how well they are recognised from.""",
    "limits": HEAD_LIMITS,
    "load": """    from pretrained import Transcriber
    transcriber = Transcriber.from_pretrained("<this folder>")
    text = transcriber.transcribe_file("speech.flac")

Or `python -m pretrained transcribe speech.flac --model <this folder>`. The text is that of the
best symbol of each frame, without a language model; `--beam_size` and `--lm_file` add a beam and an
n-gram of words.""",
    "caveat": f"{HEADS_CAVEAT} data,\ndecoded likewise.",
}
VERIFIER_TEXT = {
    "task": "audio-classification",
    "tag": "speaker-verification",
    "title": "Speaker verifier",
    "what": """whether two
recordings have the same speaker, by the cosine ({scoring}) of embeddings of {features}.""",
    "uses": """- Comparing recordings of people who have agreed to it.
- Research on how much of the speaker a representation holds.""",
    "limits": f"""{HEAD_LIMITS}
- A score is no probability, and no evidence in court. It falls between recordings of one person
  over different telephones, bands and rooms, and relatives may sound alike.""",
    "load": """    from pretrained import SpeakerVerifier
    verifier = SpeakerVerifier.from_pretrained("<this folder>")
    verification = verifier.verify_files("a.flac", "b.flac")

Or `python -m pretrained verify a.flac b.flac --model <this folder>`. `verification.score` is the
cosine; `verification.same_speaker` tells whether it is at least the threshold, {threshold:.6g}.
That was set on: {threshold_set_on}. Other recordings need another one.""",
    "caveat": f"{HEADS_CAVEAT}\ntrials.",
}
CLASSIFIER_TEXT = {
    "task": "audio-classification",
    "tag": "utterance-classification",
    "title": "Classifier of utterances",
    "what": """which of
{number_of_labels} classes an utterance of 16 kHz speech belongs to, by a linear classifier of the
mean over time of {features}. The classes: {labels}.""",
    "uses": """- Sorting utterances like those of the training data into these classes.
- Comparing representations of speech by how well they are classified.""",
    "limits": f"""{HEAD_LIMITS}
- It names one of its classes whatever it hears. The posteriors are not calibrated.
- Where the classes are emotions: actors' emotions are not everyday ones, and the European Union
  forbids, with few exceptions, to infer those of people at work and in school (Artificial
  Intelligence Act, Article 5).""",
    "load": """    from pretrained import Classifier
    classifier = Classifier.from_pretrained("<this folder>")
    found = classifier.classify_file("speech.flac")

Or `python -m pretrained classify speech.flac --model <this folder>`. `found.label` is the most
probable class, `found.score` its posterior, and `found.scores` has the posterior of each class.""",
    "caveat": f"{HEADS_CAVEAT}\nutterances.",
}
TEXTS = {
    None: ENCODERS_TEXT,
    TRANSCRIBER: TRANSCRIBER_TEXT,
    VERIFIER: VERIFIER_TEXT,
    CLASSIFIER: CLASSIFIER_TEXT,
}
FEATURES_TEXT = {
    "frame_encoder": "all layers of the frame encoder",
    "utterance_encoder": "the utterance encoder",
    "fbank": "log-mel bands",
    "fbank_statistics": "log-mel bands' mean and deviation over time",
}
