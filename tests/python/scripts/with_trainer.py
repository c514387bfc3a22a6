"""A script of Transformers' `Trainer` that knows nothing of what starts it."""

import argparse
import time

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Sequences(Dataset):
    """Counting, from somewhere."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(16) + index) % 64
        return {"input_ids": ids, "labels": ids}


class Paused(Trainer):
    """Slow enough to be struck in the middle."""

    pause = 0.0

    def training_step(self, *arguments, **named):
        time.sleep(self.pause)
        return super().training_step(*arguments, **named)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))
    arguments = TrainingArguments(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Paused(model=model, args=arguments, train_dataset=Sequences())
    trainer.pause = options.pause
    trainer.train()
    trainer.save_model(f"{options.output}/final")


if __name__ == "__main__":
    main()
