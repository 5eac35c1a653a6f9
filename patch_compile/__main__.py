"""`python -m patch_compile`."""

from patch_compile.cli.app import main

if __name__ == "__main__":
    main()
