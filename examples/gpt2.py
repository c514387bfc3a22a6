"""GPT-2 from scratch, in code of one's own: `eagleray train run.yaml --set train.function=gpt2:train`."""

from __future__ import annotations

from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from transformers import GPT2Config, GPT2LMHeadModel

from eagleray.train.own import TrainContext


def train(context: TrainContext) -> None:
    """Trains on as many ranks as there are; goes on from the newest checkpoint."""
    config = GPT2Config(
        vocab_size=context.vocab_size, n_positions=context.sequence_length, n_embd=192, n_layer=4, n_head=6
    )
    model = context.distribute(GPT2LMHeadModel(config))
    optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in context.steps(model=model, optimizer=optimizer):
        for batch in step.batches:
            logits = model(batch.tokens, position_ids=batch.position_ids).logits
            step.backward(cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"))
        norm = context.clip(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        context.log(grad_norm=norm)
