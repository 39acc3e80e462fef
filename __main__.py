"""`python -m tfm`."""

from tfm.cli.main import main

if __name__ == "__main__":
    main()
