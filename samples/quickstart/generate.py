"""Continues a prompt with a build: python generate.py OUT PROMPT."""

import sys

from patch_compile import open_generator


def main(out: str, prompt: str) -> None:
    """Print the continuation while it is generated."""
    generator = open_generator(out)
    print(f"runs on {generator.about}", file=sys.stderr)
    for piece in generator.stream([prompt], new_tokens=20):
        print(piece.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
