"""Does the device compute what the CPU does? Differences by norm, over the norm of the reference.

The device against the CPU, both in float32 and without TF32, and bf16 against float32 on the
device. Nothing drops out; weights and batches are the same.
"""

from contextlib import contextmanager
from functools import partial

import torch

from lobes.distributed import unwrap
from tests.gpu.made_up import OTHERS, STAGES, make_batch, make_brain, make_ready, one_forward
from tests.training.distributed_gradients import drop_nothing

LENGTHS = (2.0, 1.2, 1.6, 1.8) * 2  # of the batch's rows, s
TINY = 1e-30  # a norm of zero
# Of all tensors of a kind together; what has nothing to do with each other is 1.4 apart
LIMITS = {"float32, device and CPU": 1e-3, "bf16 and float32": 0.5}
# So few utterances determine no regression on 768 dimensions.
OVERRIDES = {"joint": {"critic_ridge": 1.0}}


def steps(settings, folder):
    """Yield a comparison for each stage."""
    for stage in (*STAGES, *OTHERS):
        yield stage, partial(compare, stage, settings, folder)


def compare(stage, settings, folder):
    """Return the relative differences of a stage's outputs, loss and gradients."""
    device = settings.device
    with exact_float32():
        on_cpu = observe(stage, settings, folder, "cpu", "fp32")
        exact = observe(stage, settings, folder, device, "fp32")
    rounded = observe(stage, settings, folder, device, "bf16")
    found = {
        "float32, device and CPU": differences(exact, on_cpu),
        "bf16 and float32": differences(rounded, exact),
    }
    over = [
        f"{pair}: {kind} {told['all']:.2g}"
        for pair, kinds in found.items()
        for kind, told in kinds.items()
        if not told["all"] <= LIMITS[pair]
    ]
    return {**found, "problem": f"too far apart: {', '.join(over)}"} if over else found


def observe(stage, settings, folder, device, precision):
    """Return the outputs, the loss and the gradients of a step, as dicts of tensors on the CPU."""
    overrides = {"precision": precision, **OVERRIDES.get(stage, {})}
    brain = make_brain(stage, settings, folder, device=device, **overrides)
    drop_nothing(brain.modules.values())
    make_ready(brain)
    batch = make_batch(LENGTHS)
    outputs, loss = one_forward(brain, batch)
    brain.on_fit_batch_end(batch, outputs, loss, True)  # the critic sees the batch
    _, loss = one_forward(brain, batch)
    loss.backward()
    gradients = {name: p.grad for name, p in brain.modules.named_parameters() if p.grad is not None}
    found = {"outputs": outputs_of(brain, batch), "loss": {"loss": loss}, "gradients": gradients}
    return {
        kind: {name: x.detach().double().cpu() for name, x in tensors.items()}
        for kind, tensors in found.items()
    }


@torch.no_grad()
def outputs_of(brain, batch):
    """Return the hidden states of each layer, embeddings and projections, as the Brain has them."""
    found = {}
    with brain.training_ctx:
        if "frame_encoder" in brain.modules:
            encoder, mask = unwrap(brain.modules.frame_encoder), batch.mask.data.bool()
            _, hidden = encoder(*batch.sig, mask=mask, output_hidden_states=True)
            found |= {f"hidden state {number}": x for number, x in enumerate(hidden)}
        if "utterance_encoder" in brain.modules:
            outputs = unwrap(brain.modules.utterance_encoder)(*batch.first, project=True)
            found |= dict(zip(("embeddings", "projections"), outputs, strict=True))
    return found


def differences(found, reference):
    """Return, for each kind, the difference of all its tensors together and of the worst one.

    A tensor counts as no smaller than a thousandth of the whole: some gradients, such as that of
    a bias before a softmax, are nothing but rounding.
    """
    rows = {}
    for kind, tensors in reference.items():
        whole = norm(tensors.values())
        apart = {name: found[kind][name] - x for name, x in tensors.items()}
        shares = {
            name: norm([apart[name]]) / max(norm([x]), 1e-3 * whole, TINY)
            for name, x in tensors.items()
        }
        worst = max(shares, key=shares.get)
        together = norm(apart.values()) / max(whole, TINY)
        rows[kind] = {"all": together, "worst": shares[worst], "where": worst}
    return rows


def norm(tensors):
    """Return the norm of tensors as if they were one vector.

    Example
    -------
    >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    5.0
    """
    return float(torch.stack([torch.linalg.vector_norm(x) for x in tensors]).norm())


@contextmanager
def exact_float32():
    """Have products of float32 computed in float32, as the CPU does, and not in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
