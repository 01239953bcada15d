"""`python -m softadv` is the command `softadv`."""

from softadv.cli.app import main

if __name__ == "__main__":
    main()
