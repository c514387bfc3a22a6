"""A script of Transformers' `Trainer` on the run's own data; it writes down what it sees."""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from eagleray.train import dataset


class Watched(Trainer):
    """Slow enough to be struck in the middle."""

    pause = 0.0

    def training_step(self, model, inputs, *arguments, **named):
        with Path(self.args.output_dir, f"seen-{self.args.process_index}").open("a") as log:
            seen = {name: each.tolist() for name, each in inputs.items()}
            log.write(json.dumps({"step": self.state.global_step + 1, **seen}) + "\n")
        time.sleep(self.pause)
        return super().training_step(model, inputs, *arguments, **named)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=options.vocabulary, **shape))
    arguments = TrainingArguments(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    Path(options.output).mkdir(parents=True, exist_ok=True)
    trainer = Watched(model=model, args=arguments, train_dataset=dataset())
    trainer.pause = options.pause
    trainer.train()


if __name__ == "__main__":
    main()
