"""`python -m patch_compile`."""

from patch_compile.cli import main

if __name__ == "__main__":
    main()
