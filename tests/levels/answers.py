"""What SmolLM2-135M-Instruct answers, as transformers computed it in float64, and whether the engine says the same.

Each token has the distance, in logits, by which it was ahead of the second: more than `CLOSEST`, some hundred times
what float32 rounds. So an engine that computes in float32 says the same on every processor.

This file needs nothing but the worker's package: `python - FOLDER < answers.py` runs in the worker's image as well.
`python answers.py --multiply` only multiplies as the engine does, for those who listen which library does it.
"""

import ctypes
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuronmodel_worker.engines.llama import LoadedLlama

# As a worker sets it before it loads PyTorch: threads that spin starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

CLOSEST = 0.05
ROUNDING = 0.005
"""Of a distance: it is written to 0.0005 below, and float32 was off by less than that at every level."""
DEGREE = 3

VOYAGE = " ".join(f"On day {day} the ship sailed {7 * day} miles towards the island." for day in range(14))


@dataclass(frozen=True)
class Answer:
    prompt: str
    text: str
    tokens: tuple[int, ...]
    distances: tuple[float, ...]
    """Of each token from the second likeliest."""


def chat(question: str) -> str:
    """As the model's own template writes it."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


ANSWERS = (
    Answer(
        chat("What is the capital of France?"),
        "The capital of France is Paris.<|im_end|>",
        (504, 3575, 282, 4649, 314, 7042, 30, 2),
        (0.098, 4.642, 4.746, 5.024, 3.382, 4.686, 0.287, 2.999),
    ),
    Answer(
        chat("What is the capital of Japan?"),
        "The capital of Japan is Tokyo.<|im_end|>",
        (504, 3575, 282, 3085, 314, 19081, 30, 2),
        (2.549, 4.286, 3.677, 6.084, 3.281, 4.732, 0.961, 3.142),
    ),
    Answer(
        "The capital of France is",
        " Paris.\n\nThe answer is: 2018-01",
        (7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33),
        (2.485, 1.256, 1.429, 1.351, 0.82, 0.261, 1.687, 1.948, 2.205, 0.394, 0.264, 0.37, 0.181, 2.345, 1.045, 0.138),
    ),
    Answer(
        "1, 2, 3, 4, 5,",
        " 6, 7, 8, 9,",
        (216, 38, 28, 216, 39, 28, 216, 40, 28, 216, 41, 28),
        (3.154, 3.992, 3.672, 3.675, 3.584, 4.761, 4.036, 5.844, 4.7, 3.669, 5.289, 3.661),
    ),
    Answer(
        VOYAGE,
        " On day 14 the ship sailed 101",
        (1985, 1194, 216, 33, 36, 260, 5575, 23217, 216, 33, 32, 33),
        (3.126, 6.012, 10.862, 10.49, 7.269, 5.95, 7.071, 7.657, 7.867, 0.741, 0.935, 0.425),
    ),
    Answer(
        chat("What is the largest planet in our solar system?"),
        "The largest planet in our solar system is Neptune, but it",
        (504, 3995, 3925, 281, 653, 3693, 817, 314, 30461, 28, 564, 357),
        (3.062, 2.601, 1.85, 5.318, 4.503, 5.729, 10.427, 2.568, 0.298, 0.582, 0.562, 1.324),
    ),
)


class WrongAnswer(AssertionError):
    """A sentence."""


def check_all(folder: Path) -> float:
    """Raises WrongAnswer; else the greatest difference of a distance from the one above."""
    from tokenizers import Tokenizer

    model = loaded(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return max(check(model, tokenizer.encode(answer.prompt).ids, answer) for answer in ANSWERS)


def loaded(folder: Path) -> "LoadedLlama":
    """As a worker loads it."""
    from neuronmodel_worker.checkpoint import open_checkpoint
    from neuronmodel_worker.engines.cpu import CpuEngine
    from neuronmodel_worker.plan.streamed import make_plan
    from neuronmodel_worker.stream import TensorSink, run

    flags = {"tp_degree": DEGREE, "torch_dtype": "bfloat16", "seq_len": 256}
    plan, sink, engine = make_plan(open_checkpoint(folder), flags), TensorSink(), CpuEngine()
    run(plan, sink)
    with tempfile.TemporaryDirectory() as compiled:
        engine.compile(plan, flags, Path(compiled), lambda done, total: None)
        return engine.open(Path(compiled)).load(sink.tensors)


def check(model: "LoadedLlama", prompt: list[int], answer: Answer) -> float:
    tokens, start, most = prompt, 0, 0.0
    for place, (expected, distance) in enumerate(zip(answer.tokens, answer.distances, strict=True)):
        (best, second), (found, _) = (both.tolist() for both in model.logits(tokens, start)[-1].topk(2))
        most = max(most, abs(best - second - distance))
        if found != expected or most > ROUNDING:
            raise WrongAnswer(
                f"token {place} of the answer {answer.text!r} is {found}, {best - second:.4f} ahead of the next; "
                f"it has to be {expected}, {distance} ahead"
            )
        start += len(tokens)
        tokens = [found]
    return most


def multiply() -> None:
    """One token and several, by a matrix that was widened, and attention; and how PyTorch's own loops are built."""
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention

    weight, heads = torch.ones(192, 576, dtype=torch.bfloat16), torch.ones(1, 3, 16, 64)
    with torch.inference_mode():
        for num_tokens in (1, 16):
            linear(torch.ones(num_tokens, 576), weight.float())
        scaled_dot_product_attention(heads, heads[:, :1], heads[:, :1], is_causal=True, enable_gqa=True)
    print(f"CAPABILITY {torch.backends.cpu.get_cpu_capability()}")
    for path in sorted({line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}):
        if path.endswith("/libblas.so.3"):
            print(f"BLAS {path} {core_of(path)}")


def core_of(path: str) -> str:
    """The processor that OpenBLAS computes for. It is asked, as its output may be that of NumPy's own OpenBLAS."""
    try:
        name = ctypes.CDLL(path).openblas_get_corename
    except AttributeError:
        return "not OpenBLAS"
    name.restype = ctypes.c_char_p
    return str(name().decode())


if __name__ == "__main__":
    if sys.argv[1] == "--multiply":
        multiply()
    else:
        print(f"ANSWERS RIGHT, distances off by at most {check_all(Path(sys.argv[1])):.4f}")
