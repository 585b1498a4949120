"""A pull towards the model that one started from, inside TRL's DPOTrainer.

    python examples/trl_dpo.py                                  # tiny, in seconds
    python examples/trl_dpo.py --model FOLDER --data preferences.jsonl --method "l2(0.1)+er(500)"

Each line of the data is {"prompt": ..., "chosen": ..., "rejected": ...}.
"""

from __future__ import annotations

import argparse
from copy import deepcopy

from datasets import Dataset, load_dataset
from tiny import documentation, model_and_tokenizer
from trl import DPOConfig, DPOTrainer

import holdfast

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--model", help="a local folder of a causal language model")
arguments.add_argument("--data", help="a JSONL file of preferences")
arguments.add_argument("--method", default="l2(0.1)+er(capacity=200)")
arguments.add_argument("--out", default="out")
given = arguments.parse_args()

model, tokenizer = model_and_tokenizer(given.model)
if given.data:
    data = load_dataset("json", data_files=given.data, split="train")
else:
    texts = documentation(32)
    data = Dataset.from_list(
        [{"prompt": t[:20], "chosen": t[20:], "rejected": t[:19:-1]} for t in texts]
    )

trainer = DPOTrainer(
    model,
    ref_model=deepcopy(model),
    args=DPOConfig(
        output_dir=given.out,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=1e-3 if given.model is None else 1e-6,
        max_length=256,
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
