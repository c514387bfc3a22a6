"""The exact mean loss on held-out data: fixed samples, shared by all ranks, the same for any world."""

from __future__ import annotations

from eagleray import _core

from .context import Context, Tensors
from .plan import Validation
from .strategy import Spread
from .totals import Totals


def validate(context: Context, spread: Spread, step: int) -> None:
    """Measures each dataset that is due after `step` (all of them before the first step and after the last)."""
    for held in context.plan.validation:
        if step in (0, context.plan.steps) or step % held.every_steps == 0:
            start = context.clock.now()
            totals = _totals(context, spread, held)
            end = context.clock.now()
            context.reporter.span("validation", start, end)
            # Before the save of this step, so that the newest checkpoint is of a model that still was in health.
            if totals.nonfinite:
                raise _core.InvalidError(
                    f"validation `{held.name}` after step {step}: the loss of {totals.nonfinite} of {totals.samples} "
                    "samples is not finite. Lower `train.optimizer.adamw.lr`, or look at the held-out documents"
                )
            if totals.counted == 0:
                raise _core.InvalidError(
                    f"validation `{held.name}`: none of the tokens of its {totals.samples} samples counts: no turn of "
                    "an assistant reaches into them. Raise `samples` or `data.sequence_length`"
                )
            if context.rank == 0:
                figures = {"name": held.name, "step": step, "loss": totals.mean_loss, "samples": totals.samples}
                context.reporter.add("validation", t=end, **figures, start=start, end=end)


def _totals(context: Context, spread: Spread, held: Validation) -> Totals:
    mine = Totals()
    samples = min(held.samples, context.validation_samples(held))
    stream = context.open_validation(held, samples)
    try:
        while (batch := stream.next()) is not None:
            for done in spread.evaluate(Tensors.of(batch, context.device)):
                if context.speaks:
                    mine.add_losses(done.losses.double().tolist(), done.tokens, done.counted)
    finally:
        stream.close()
    return mine.reduce(context.device)
