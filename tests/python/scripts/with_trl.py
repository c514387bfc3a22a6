"""A script of TRL's `SFTTrainer` that knows nothing of what starts it; its losses are in `trainer_state.json`."""

import argparse
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

WORDS = ["the", "ray", "glides", "over", "warm", "sand", "and", "hides", "from", "a", "shark"]


class Paused(SFTTrainer):
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
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    texts = [" ".join(WORDS[(start + step) % len(WORDS)] for step in range(12)) for start in range(100)]
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), attention_dropout=0.1, **shape))
    trainer = Paused(
        model=model,
        args=SFTConfig(
            output_dir=options.output,
            max_steps=options.steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            max_length=32,
            logging_steps=1,
            save_steps=10,
            report_to=[],
            disable_tqdm=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
    )
    trainer.pause = options.pause
    trainer.train()


if __name__ == "__main__":
    main()
