"""`python -P -m patch_compile`. Without -P, Python imports modules of the current folder before any code of ours runs."""

from patch_compile.cli.app import main

if __name__ == "__main__":
    main()
