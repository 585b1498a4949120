"""Replay and distillation inside TRL's SFTTrainer.

    python examples/trl_sft.py                                  # tiny, in seconds
    python examples/trl_sft.py --model FOLDER --data new.jsonl --packing

Each line of the data is {"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ...}.
"""

from __future__ import annotations

import argparse

from datasets import Dataset, load_dataset
from tiny import documentation, model_and_tokenizer
from trl import SFTConfig, SFTTrainer

import holdfast

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--model", help="a local folder of a causal language model")
arguments.add_argument("--data", help="a JSONL file")
arguments.add_argument("--method", default="er(capacity=1000)+lwf(alpha=0.5)")
arguments.add_argument("--out", default="out")
arguments.add_argument("--packing", action="store_true")
given = arguments.parse_args()

model, tokenizer = model_and_tokenizer(given.model)
if given.data:
    data = load_dataset("json", data_files=given.data, split="train")
else:
    texts = documentation(32)
    data = Dataset.from_list([{"prompt": text[:20], "completion": text[20:]} for text in texts])

trainer = SFTTrainer(
    model,
    args=SFTConfig(
        output_dir=given.out,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=1e-3 if given.model is None else 2e-5,
        max_length=256,
        packing=given.packing,
        bf16=False,
        save_strategy="no",
        report_to=[],
    ),
    train_dataset=data,
    processing_class=tokenizer,
)
holdfast.attach(trainer, given.method)
trainer.train()
trainer.save_model(given.out)
print("saved to", given.out)
