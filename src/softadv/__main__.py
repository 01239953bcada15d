"""`python -m softadv` is the command `softadv`."""

from softadv.cli import main

if __name__ == "__main__":
    main()
