"""`python -m hack.model FILE.gguf FOLDER`: a quantized GGUF model as a bf16 Hugging Face checkpoint that answers right.

Runs in the project's virtual environment, without network.
"""

import argparse
import sys
from pathlib import Path

import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
CONTROL_TOKENS = (TokenType.CONTROL, TokenType.USER_DEFINED)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m hack.model", description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    convert(options.gguf, options.folder)
    answer = ask(options.folder, QUESTION)
    if answer != ANSWER:
        print(f"error: asked {QUESTION!r}, the converted model answered {answer!r} and not {ANSWER!r}", file=sys.stderr)
        return 1
    print(f"{QUESTION} {answer}")
    return 0


def convert(gguf: Path, folder: Path) -> None:
    """Write model.safetensors, config.json, generation_config.json and the tokenizer's files."""
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_config(config)
    # This dequantizes and undoes GGUF's permutation of the query and key rows; the head is tied to the embeddings.
    # `from_pretrained(gguf_file=…)` is the same plus a dependency on accelerate.
    read = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)
    model.load_state_dict(read["tensors"], strict=False)
    model = model.to(torch.bfloat16)
    tokenizer = tokenizer_of(GGUFReader(gguf))
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.config.update({**ends, "pad_token_id": tokenizer.pad_token_id})
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes for its owner alone; pods read the folder as somebody else.
    (folder / "model.safetensors").chmod(0o644)


def tokenizer_of(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """SmolLM's byte-level BPE, every digit a token of its own, which transformers' own converter leaves out."""

    def field(name: str) -> list[str]:
        return list(reader.fields[f"tokenizer.ggml.{name}"].contents())

    tokens, kinds = field("tokens"), field("token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in field("merges")]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind in CONTROL_TOKENS]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])

    def named(role: str) -> str:
        return tokens[int(reader.fields[f"tokenizer.ggml.{role}_token_id"].contents())]

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=named("bos"),
        eos_token=named("eos"),
        pad_token=named("padding"),
        unk_token=named("unknown"),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=int(reader.fields["llama.context_length"].contents()),
        chat_template=reader.fields["tokenizer.chat_template"].contents(),
    )


def ask(folder: Path, question: str) -> str:
    """The checkpoint's answer at temperature 0, read back from the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    return str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
