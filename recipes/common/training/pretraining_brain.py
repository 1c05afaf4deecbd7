"""What the stages of pretraining share: a last step after training, then the test."""

import torch
from speechbrain.utils.distributed import ddp_barrier
from speechbrain.utils.logger import get_logger

from lobes.distributed import unwrap
from recipes.common.training.brain import ResumableBrain
from recipes.common.training.checkpoints import AtomicCheckpointer

logger = get_logger(__name__)


class PretrainingBrain(ResumableBrain):
    """A stage of pretraining: training, then a last step in closed form, then the test.

    A stage's Brain says in `last_step` what is done to the trained encoders.
    """

    finalised = False
    shares_evaluation = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.checkpointer.add_recoverables(dict(self.modules.items()))

    def on_fit_start(self):
        """Refuse modules that nothing would train, beside what all Brains refuse."""
        super().on_fit_start()
        self.check_trained()

    def check_trained(self):
        """Raise ValueError where a module's parameters are in no optimizer."""
        own = self.optimizers_dict or {}
        kept = [*self.checkpointer.recoverables.values(), *own.values()]
        optimizers = [x for x in kept if isinstance(x, torch.optim.Optimizer)]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        trained = {id(p) for group in groups for p in group["params"]}
        for name, module in self.modules.items():
            if any(p.requires_grad and id(p) not in trained for p in module.parameters()):
                raise ValueError(
                    f"modules.{name} has parameters that no optimizer trains: give them one in "
                    f"init_optimizers of {type(self).__name__}, or set requires_grad to False."
                )

    def finalise(self):
        """Recover the end of training and take the last step: once, logged and checkpointed.

        The checkpoint of training stays as it is, for a longer run to go on from. What the last
        step made of it is kept in the folder `final` beside it, and is made anew where training
        has gone on since or the step's settings are others. A second call does nothing.
        """
        if self.finalised:
            return
        trained = self.checkpointer.recover_if_possible()
        encoders = {name: unwrap(self.modules[name]).eval() for name in self.architecture()}
        final = AtomicCheckpointer(self.checkpointer.checkpoints_dir / "final", encoders)
        source = {"time": trained.meta["unixtime"], **self.last_settings()}
        found = final.find_checkpoint(ckpt_predicate=lambda saved: saved.meta["of"] == source)
        ddp_barrier()  # before the first rank saves what the others have not looked for yet
        if found is None:
            logger.info(f"{type(self).__name__}: the last step, after {trained.path}")
            self.last_step()
            final.save_and_keep_only(meta={"of": source}, num_to_keep=1)
        else:
            final.load_checkpoint(found)
        self.finalised = True

    def last_settings(self):
        """Return what the last step depends on beside the encoders: plain values by name."""
        return {}

    def last_step(self):
        """Change the encoders, which are in evaluation mode."""

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Leave the encoders as `finalise` made them."""
        if not self.finalised:
            raise RuntimeError("Call finalise() before evaluate(): the model is not complete.")
