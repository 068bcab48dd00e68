"""Measure what the embedded base can do: ``python scripts/evaluate_base.py [CHECKPOINT]``.

Arithmetic on every equation that its training text holds out, and Sudoku grids with few blanks that
the text leaves out (those of the held-out set); greedy decoding, one token a step, exact matches.
"""

import sys

import numpy as np

from pipeline.models import open_denoiser
from pipeline.statistics import accuracy_interval
from pipeline.tables import text_table
from pipeline.tokenizers import open_tokenizer_at
from weft.sampling import DecodeSettings, generate
from weft.tasks import sudoku
from weft.tasks.arithmetic import is_held_out, is_small_product
from weft.tasks.base import Problem
from weft.tasks.fingerprints import is_held_out as is_held_out_item

BATCH_SIZE = 256
NUM_GRIDS = 200


def held_out_equations(operator: str) -> list[tuple[str, str]]:
    """All held-out ``("47+85=", "132")`` of one- and two-digit numbers."""
    value = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}[operator]
    pairs = ((a, b) for a in range(100) for b in range(100))
    return [
        (f"{a}{operator}{b}=", str(value(a, b)))
        for a, b in pairs
        if is_held_out(a, operator, b)
        and (operator != "-" or a >= b)
        and (operator != "*" or is_small_product(a, b))
    ]


def grids(num_blanks: int) -> list[tuple[str, str]]:
    """Puzzles of one solution that the text leaves out, in its own form, and their completion."""
    rng = np.random.default_rng([1, num_blanks])
    found: list[tuple[str, str]] = []
    while len(found) < NUM_GRIDS:
        puzzle, solution = sudoku.generate_puzzle(rng, num_blanks)
        if is_held_out_item(Problem("sudoku", "", {"puzzle": puzzle})):
            found.append((f"{puzzle}=", solution))
    return found


def main(path: str) -> None:
    """Print the table of the model card."""
    denoiser, tokenizer = open_denoiser(path), open_tokenizer_at(path)

    def is_right(items: list[tuple[str, str]], gen_length: int) -> list[bool]:
        results: list[bool] = []
        for start in range(0, len(items), BATCH_SIZE):
            batch = items[start : start + BATCH_SIZE]
            prompts = [tokenizer(p, add_special_tokens=False)["input_ids"] for p, _ in batch]
            settings = DecodeSettings(
                gen_length=gen_length, block_length=gen_length, steps=gen_length
            )
            found = generate(denoiser, prompts, settings)
            for tokens, (_, wanted) in zip(found.tokens.tolist(), batch, strict=True):
                results.append(tokenizer.decode(tokens).split(tokenizer.eos_token)[0] == wanted)
        return results

    measures = [(f"a{op}b, held-out pairs", held_out_equations(op), 6) for op in "+-*"]
    measures += [(f"Sudoku, {blanks} blanks", grids(blanks), 20) for blanks in (1, 2, 3, 4, 5, 6)]
    rows = []
    for name, items, gen_length in measures:
        correct = is_right(items, gen_length)
        interval = accuracy_interval(correct, "wilson")
        share = f"{100 * sum(correct) / len(correct):.1f} %"
        rows.append(
            (
                name,
                str(len(items)),
                share,
                f"{100 * interval.low:.1f} - {100 * interval.high:.1f} %",
            )
        )
    print(text_table(("measure", "n", "correct", "95 % interval"), rows))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny")
