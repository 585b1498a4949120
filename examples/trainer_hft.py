"""Half fine-tuning inside transformers' Trainer, in two stages.

    python examples/trainer_hft.py                              # tiny, in seconds
    python examples/trainer_hft.py --model FOLDER --data new.jsonl --method "hft+l2(0.01)"

Each line of the data is {"text": ...}. Every call of `trainer.train()` is a stage: HFT draws
another half of the model for each.
"""

from __future__ import annotations

import argparse

from datasets import Dataset, load_dataset
from tiny import documentation, model_and_tokenizer
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

import holdfast

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--model", help="a local folder of a causal language model")
arguments.add_argument("--data", help="a JSONL file with a field `text`")
arguments.add_argument("--method", default="hft")
arguments.add_argument("--out", default="out")
arguments.add_argument("--stages", type=int, default=2)
given = arguments.parse_args()

model, tokenizer = model_and_tokenizer(given.model)
if given.data:
    data = load_dataset("json", data_files=given.data, split="train")
else:
    data = Dataset.from_list([{"text": text} for text in documentation(64)])
data = data.map(
    lambda row: tokenizer(row["text"] + tokenizer.eos_token, truncation=True, max_length=256),
    remove_columns=data.column_names,
)

trainer = Trainer(
    model,
    TrainingArguments(
        output_dir=given.out,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        learning_rate=1e-3 if given.model is None else 2e-5,
        save_strategy="no",
        report_to=[],
    ),
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
)
attached = holdfast.attach(trainer, given.method)
for stage in range(given.stages):
    trainer.train_dataset = data.shard(given.stages, stage)
    trainer.train()

trainer.save_model(given.out)
for note in attached.record.notes:
    print(note)
