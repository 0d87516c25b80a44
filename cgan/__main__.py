"""`python -m cgan` is cgan-train; torchrun starts it as a module."""

from cgan.cli import main

if __name__ == "__main__":
    main()
