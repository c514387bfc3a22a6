"""A script of TRL's `SFTTrainer` on the run's own data."""

import argparse

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from eagleray.train import dataset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    # The samples are tokens already: it only says what fills batches up, and none is short.
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    special = {"pad_token": "<pad>", "eos_token": "<pad>", "unk_token": "<unk>"}
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    trainer = SFTTrainer(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=options.vocabulary, **shape)),
        args=SFTConfig(
            output_dir=options.output,
            max_steps=options.steps,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_steps=1,
            save_steps=3,
            report_to=[],
            disable_tqdm=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=dataset().as_datasets(),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special),
    )
    trainer.train()


if __name__ == "__main__":
    main()
