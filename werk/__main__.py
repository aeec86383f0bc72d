"""python -m werk: the command werk."""

from werk.cli.run import main

if __name__ == "__main__":
    main()
