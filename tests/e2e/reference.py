"""What a checkpoint has to answer, by transformers: nothing of this project takes part in it."""

from functools import cache
from pathlib import Path

CLOSEST = 1e-3
"""In logits of a tiny model, which float32 gives to some 0.00001."""


@cache
def answer(folder: Path, prompt: str, *, num_tokens: int, of: str = "") -> str:
    """The greedy continuation as it stands behind the prompt, in 32-bit floats; `of` tells contents apart that were at
    the same path. No token is so near to the second likeliest that rounding, and with it the processor, could choose
    the other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt_ids = tokenizer(prompt, return_tensors="pt").input_ids
    made = model.generate(
        prompt_ids,
        attention_mask=torch.ones_like(prompt_ids),
        max_new_tokens=num_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best_two = torch.cat(made.logits).topk(2).values
    assert (best_two[:, 0] - best_two[:, 1]).min() > CLOSEST, "take another prompt or seed"
    asked, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt_ids[0], made.sequences[0]))
    assert whole.startswith(asked)
    return str(whole[len(asked) :])
